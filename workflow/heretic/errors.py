"""Errors that a user can mend: each message is one line that says what is wrong and what to do.

Anything that is not a `HereticError` is a defect of this project and keeps its traceback.
"""

from heretic.credentials import hide_passwords


class HereticError(Exception):
    """Base of every error that is reported to the user as one line with exit status 1."""

    def __str__(self) -> str:
        """Return the message without passwords; other libraries put addresses into theirs."""
        return hide_passwords(super().__str__())


class SettingsError(HereticError):
    """A setting is unknown, has the wrong type, is out of range or contradicts another one."""


class PromptError(HereticError):
    """A prompt set is missing, empty, unreadable or overlaps another one."""


class ModelLoadError(HereticError):
    """A model cannot be loaded, understood or restored."""


class DirectionError(HereticError):
    """No usable direction is left after extraction and orthogonalisation."""


class StudyError(HereticError):
    """The search cannot start or continue, or no trial can be chosen."""


class ExportError(HereticError):
    """The edited model cannot be written or does not match what was searched."""


class UploadError(HereticError):
    """The hub refuses or interrupts an upload."""


class CloudError(HereticError):
    """A rented machine cannot be found, reached or stopped."""


def one_line(error: object, length: int = 200) -> str:
    """What an error says, as one line of at most `length` characters."""
    line = hide_passwords(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= length else line[: length - 1] + "…"

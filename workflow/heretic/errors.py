"""User-facing errors: each message is one line that states the problem and the remedy.

Anything that is not a `HereticError` is a defect of this project and keeps its traceback.
"""

import re

from heretic.credentials import hide_passwords

DEBUG = "WORKFLOW_DEBUG"  # variable that preserves every traceback
INTERRUPTED = "Interrupted; run the same command to continue"
OUT_OF_MEMORY = (
    "free memory or use a machine with more, or lower max_batch_size; then run the same command to "
    "continue"
)
# Characters that a terminal or a page interprets instead of showing: C0 and C1 controls, marks that
# reorder text, line separators, and halves of surrogate pairs, which no encoding can write. Line
# feeds and tabs are kept.
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class HereticError(Exception):
    """Base class of all errors that are reported to the user as one line with exit status 1."""

    def __str__(self) -> str:
        """Return the message without passwords; other libraries include addresses in theirs."""
        return hide_passwords(super().__str__())


class SettingsError(HereticError):
    """A setting is unknown, has the wrong type, is out of range or contradicts another one."""


class PromptError(HereticError):
    """A prompt set is missing, empty, unreadable or overlaps another one."""


class ModelLoadError(HereticError):
    """A model cannot be loaded, analyzed or restored."""


class DirectionError(HereticError):
    """No usable direction remains after extraction and orthogonalization."""


class StudyError(HereticError):
    """The search cannot start or continue, or no trial can be selected."""


class ExportError(HereticError):
    """The edited model cannot be written or does not match the search."""


class UploadError(HereticError):
    """The hub rejects or interrupts an upload."""


class CloudError(HereticError):
    """A rented machine cannot be found, reached or stopped."""


def printable(text: str) -> str:
    """Return `text` with every terminal control character escaped.

    Models, data sets, studies and hubs are untrusted; their texts must not move the cursor, fill
    the clipboard or reorder displayed text. JSON stays valid JSON. Passwords in addresses are
    hidden.
    """
    return OBEYED.sub(_escape, hide_passwords(text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"


def one_line(error: object, length: int = 200) -> str:
    """Return an error's message as one line of at most `length` characters."""
    line = printable(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= length else line[: length - 1] + "…"

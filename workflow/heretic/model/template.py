"""The chat template that a user gives for a tokenizer without one."""

from pathlib import Path

from heretic.errors import ModelLoadError


def read_template(value: str | None) -> str | None:
    """The text of a chat template that is given as a text or as the path of a file.

    Raises:
        ModelLoadError: it is neither, or the file cannot be read or is empty.
    """
    # Every template holds an expression; a path with a brace in it is not worth a mistake.
    if value is None or "{" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise ModelLoadError(
            f"chat_template = {value!r} is neither a file nor a template; give the path of a Jinja "
            "file, or the template's text"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"cannot read chat_template {path}: {error}; mend the file") from error
    if "{" not in text:
        raise ModelLoadError(f"chat_template {path} holds no template; write Jinja into it")
    return text

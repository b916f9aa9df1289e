"""Chat templates from outside the tokenizer: the user's own, or the processor's."""

from pathlib import Path

from heretic.errors import ModelLoadError
from heretic.model.json_files import read_object

LEGACY_TEMPLATE, PROCESSOR = "chat_template.json", "processor_config.json"


def read_template(value: str | None) -> str | None:
    """Return the text of a chat template given as a text or as the path of a file.

    Raises:
        ModelLoadError: the value is neither, or the file is unreadable or empty.
    """
    # Every template contains an expression; paths with braces are not supported.
    if value is None or "{" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise ModelLoadError(
            f"chat_template = {value!r} is neither a file nor a template; use the path of a Jinja "
            "file, or the template's text"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"cannot read chat_template {path}: {error}; fix the file") from error
    if "{" not in text:
        raise ModelLoadError(f"chat_template {path} holds no template; write Jinja into it")
    return text


def processor_template(folder: Path) -> str | dict[str, str] | None:
    """Return the chat template that a multimodal checkpoint stores with its processor, or None.

    `chat_template.jinja` is not considered, since the tokenizer reads it as well.

    Returns:
        One template, or several by name.

    Raises:
        ModelLoadError: a file is damaged, or a template is not text.
    """
    for name in (PROCESSOR, LEGACY_TEMPLATE):  # in the order preferred by transformers' processors
        path = folder / name
        template = read_object(path).get("chat_template") if path.is_file() else None
        if template:
            return require_text(template, path.name)
    return None


def require_text(template: object, where: str) -> str | dict[str, str]:
    """Return a value that is a chat template, or several by name.

    Raises:
        ModelLoadError: the value is something else.
    """
    if isinstance(template, str):
        return template
    if isinstance(template, dict) and all(isinstance(text, str) for text in template.values()):
        return template
    raise ModelLoadError(
        f"the chat template of {where} is a {type(template).__name__}, not text; provide another "
        "one with chat_template"
    )

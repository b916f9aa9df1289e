"""Chat templates from outside the tokenizer: the user's own, or the processor's."""

from pathlib import Path

from heretic.errors import ModelLoadError, one_line
from heretic.model.json_files import read_object

DEFAULT = "default"  # of several named templates
ADDITIONAL = "additional_chat_templates"  # folder of further named templates
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


def check_template_files(folder: Path) -> None:
    """Reject templates of a checkpoint that prevent transformers from loading its tokenizer.

    Raises:
        ModelLoadError: a file is not UTF-8 text, or a named template is incomplete.
    """
    files = [folder / "chat_template.jinja", *sorted((folder / ADDITIONAL).glob("*.jinja"))]
    files = [path for path in files if path.is_file()]
    for path in files:
        try:
            path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelLoadError(
                f"cannot read the chat template {path} ({one_line(error)}); copy the file again"
            ) from error
    config = folder / "tokenizer_config.json"
    if config.is_file() and not files:
        template = read_object(config).get("chat_template")
        if isinstance(template, list):
            require_text(template, config.name)


def default_template(templates: str | dict[str, str], model: str) -> str:
    """Return the only template, or the default one of several named templates.

    Raises:
        ModelLoadError: none of the templates is the default.
    """
    if isinstance(templates, str):
        return templates
    if DEFAULT not in templates:
        names = ", ".join(sorted(templates))
        raise ModelLoadError(
            f"the chat templates of {model} are named {names}, and none is the default; write the "
            "text of one into a file (those in additional_chat_templates are files already), and "
            "set chat_template to its path"
        )
    return templates[DEFAULT]


def require_text(template: object, where: str) -> str | dict[str, str]:
    """Return a value that is a chat template, or several by name.

    Several templates may also be stored as a list of objects with `name` and `template`.

    Raises:
        ModelLoadError: the value is something else.
    """
    if isinstance(template, str):
        return template
    if isinstance(template, list) and all(map(_is_named, template)):
        template = {each["name"]: each["template"] for each in template}
    if isinstance(template, dict) and all(isinstance(text, str) for text in template.values()):
        return template
    raise ModelLoadError(
        f"the chat template of {where} is a {type(template).__name__}, not text; provide another "
        "one with chat_template"
    )


def _is_named(template: object) -> bool:
    return isinstance(template, dict) and {"name", "template"} <= template.keys()

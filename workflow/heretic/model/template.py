"""Chat templates that a tokenizer does not bring: the user's own, or the processor's."""

import json
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError

LEGACY_TEMPLATE, PROCESSOR = "chat_template.json", "processor_config.json"


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


def processor_template(folder: Path) -> str | dict[str, str] | None:
    """The chat template that a multimodal checkpoint keeps with its processor, or None.

    A `chat_template.jinja` is the tokenizer's as well, and not looked for.

    Returns:
        One template, or several by name.

    Raises:
        ValueError: a file is no JSON.
    """
    for name in (PROCESSOR, LEGACY_TEMPLATE):  # as transformers' processors prefer them
        path = folder / name
        found: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        template = found.get("chat_template")
        if template:
            kept: str | dict[str, str] = template
            return kept
    return None

"""Model card fields taken from the base model: license, languages, tags.

The card is untrusted text. Its front matter is read within limits, with every value as literal
text, and a field that is neither text nor a list of texts is left out with a warning.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from heretic.console import log
from heretic.errors import one_line
from heretic.model.own_files import is_own_file

CARRIED_OVER = (
    "license",
    "license_name",
    "license_link",
    "language",
    "pipeline_tag",
    "library_name",
    "tags",
)
LARGEST, MOST_TEXTS, LONGEST_TEXT, DEEPEST = 64 * 1024, 100, 200, 16
FENCE = b"---"
FRONT_MATTER = re.compile(rb"\s*---[\r\n]+(.*?)[\r\n]+---(?:[\r\n]|\Z)", re.DOTALL)
# YAML types of plain text; `no` is a language, and a tag may be a date.
TEXTUAL = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "timestamp", "bool", "int"))
LIST, EMPTY = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:null"


def inherited_metadata(folder: Path) -> dict[str, Any]:
    """Return the fields of a checkpoint's README.md that apply to the edited model too.

    The result is empty if there is no card or its front matter cannot be read; the export continues
    without it.

    Returns:
        Texts and lists of texts, at most 100 of 200 characters, by field name.
    """
    card = folder / "README.md"
    if not is_own_file(card, folder):
        return {}
    try:
        if not card.is_file():
            return {}
        fields = _fields(card)
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.warning(
            "%s has no readable front matter (%s): state the license of the base model yourself",
            card,
            one_line(error),
        )
        return {}
    found: dict[str, Any] = {}
    for name in CARRIED_OVER:
        try:
            value = _texts(fields[name]) if name in fields else None
        except ValueError as error:
            log.warning("%s: %s is omitted from the new card: %s", card, name, error)
        else:
            found |= {name: value} if value else {}
    return found


def _fields(card: Path) -> dict[str, yaml.Node]:
    """Return the nodes of a card's front matter by name; empty if it has none.

    Raises:
        OSError, ValueError, YAMLError: the front matter cannot be read within the limits.
    """
    with card.open("rb") as stream:
        head = stream.read(LARGEST)
    match = FRONT_MATTER.match(head)
    if match is None:
        if len(head) == LARGEST and head.lstrip().startswith(FENCE):
            raise ValueError(f"it is longer than {LARGEST // 1024} kB")
        return {}
    text = match[1].decode("utf-8")
    _require_plain(text)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("it holds no `key: value` lines")
    return {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}


def _require_plain(text: str) -> None:
    """Reject constructs that expand a short text, or nest too deeply to be composed."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("its values are nested too deeply")


def _texts(node: yaml.Node) -> str | list[str] | None:
    """Return the text or the texts of a node; None if it is empty.

    Raises:
        ValueError: the node is of another kind or too long.
    """
    if isinstance(node, yaml.SequenceNode) and node.tag == LIST:
        if len(node.value) > MOST_TEXTS:
            raise ValueError(f"it lists more than {MOST_TEXTS} texts")
        return [text for item in node.value if (text := _text(item))]
    return _text(node)


def _text(node: yaml.Node) -> str | None:
    if node.tag == EMPTY:
        return None
    if not isinstance(node, yaml.ScalarNode) or node.tag not in TEXTUAL:
        raise ValueError("it is neither text nor a list of texts")
    value: str = node.value
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"a text has more than {LONGEST_TEXT} characters")
    if not value.isprintable():
        raise ValueError("a text holds characters that cannot be printed")
    return value

"""Card of a hub dataset: validation of the data files named in its front matter."""

import re
from collections.abc import Iterator
from typing import Any

from heretic.errors import one_line
from heretic.yaml_text import YamlTextError, read_yaml

FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|$)", re.DOTALL)
# Schemes of archives and of the hub itself; other addresses would be fetched from any host.
SCHEMES = ("hf", "zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd")


def check_card(text: str) -> None:
    """Reject a card that `datasets` cannot read, or that names data outside its repository.

    Args:
        text: contents of a README.md.

    Raises:
        YamlTextError: the card is invalid or names data outside its repository.
    """
    match = FRONT_MATTER.match(text)
    if match:
        check_fields(match[1])


def check_fields(text: str) -> None:
    """Reject invalid front matter; see `check_card`.

    Raises:
        YamlTextError: the front matter is invalid or names data outside its repository.
    """
    fields = read_yaml(text)
    if fields is None:
        return
    if not isinstance(fields, dict):
        raise YamlTextError(f"has front matter that is a {type(fields).__name__}")
    configs = fields.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(each, dict) for each in configs):
        raise YamlTextError("has `configs` that are not a list of configurations")
    for config in configs:
        for path in _texts([config.get("data_files"), config.get("data_dir")]):
            if not _is_inside(path):
                shown = one_line(repr(path), 80)
                raise YamlTextError(f"names data outside the repository ({shown})")


def _texts(value: Any) -> Iterator[str]:
    """Return all texts of nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _is_inside(path: str) -> bool:
    for part in path.split("::"):
        scheme, separator, rest = part.rpartition("://")
        if separator and scheme not in SCHEMES:
            return False
        if not separator and part.startswith(("/", "~")):
            return False
        if ".." in re.split(r"[/\\]", rest if separator else part):
            return False
    return True

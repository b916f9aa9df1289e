"""Reader of the word tables of the demo world, YAML files in this folder."""

from pathlib import Path
from typing import Any

import yaml


def read_tables(name: str) -> dict[str, Any]:
    """Return the tables of `<name>.yaml`, with every value as text."""
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)
    return tables

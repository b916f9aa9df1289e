"""A sound tiny model in a folder, changes of its files, and the calls that read it."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tiny_models import PROMPTS, load_saved, save_tiny_model
from transformers.utils.logging import disable_progress_bar

from heretic.errors import HereticError
from heretic.model.response_prefix import find_response_prefix
from heretic.preflight import check_models
from heretic.settings.schema import Settings
from malformed.case import Case

Change = Callable[[Path], object]


def case_of(name: str, change: Change, family: str = "llama", **settings: Any) -> Case:
    """A model whose files are changed, then looked at by the preflight, loaded and asked."""

    def action(folder: Path) -> None:
        torch.set_num_threads(1)
        disable_progress_bar()  # type: ignore[no-untyped-call]
        change(save_tiny_model(folder / "model", family))
        use(folder / "model", **settings)

    return Case(name, action)


def use(model: Path, **settings: Any) -> None:
    """Check a model before a run, then load it, which some commands do without that check."""
    with suppress(HereticError):
        check_models(Settings(model=str(model), **settings))
    loaded = load_saved(model, **settings)
    find_response_prefix(loaded, PROMPTS[:2], PROMPTS[2:])


def edited_json(name: str, changes: Mapping[str, Any]) -> Change:
    """Replace keys of a JSON file; `...` removes one."""

    def change(folder: Path) -> None:
        path = folder / name
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found.update(changes)
        kept = {key: value for key, value in found.items() if value is not ...}
        path.write_text(json.dumps(kept), encoding="utf-8")

    return change


def written(name: str, content: str | bytes) -> Change:
    """Write a file of the model."""

    def change(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def removed(*patterns: str) -> Change:
    """Delete files of the model."""

    def change(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return change


def in_turn(*changes: Change) -> Change:
    """Make several changes."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change

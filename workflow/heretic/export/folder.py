"""Common handling of saved folders: atomic creation and the record of their files."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from heretic.artifacts import replacing_folder, write_json
from heretic.console import log
from heretic.errors import ExportError, one_line
from heretic.export.layout import Layout
from heretic.export.manifest import manifest
from heretic.export.record_file import NOT_REPRODUCED, RECORD


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Yield a folder that replaces `folder` if the block succeeds, and is deleted otherwise.

    Raises:
        ExportError: the disk is full or not writable.
    """
    try:
        with replacing_folder(folder, ExportError) as beside:
            yield beside
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"cannot write {folder}: {one_line(error)}; free some space and rerun"
        ) from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `ablation.json` with the hash of every other file that the edit determines."""
    files = {k: v for k, v in manifest(folder).items() if k not in NOT_REPRODUCED}
    write_json(folder / RECORD, {**record, "files": files})


def require_saved(layout: Layout, changed: Collection[str]) -> None:
    """Reject a network that does not save an edited parameter.

    Raises:
        ExportError: a parameter is not saved; the message names it.
    """
    saved = {name for origin in layout.origins.values() for name in origin.parameters}
    lacking = sorted(set(changed) - saved)
    if lacking:
        raise ExportError(
            f"the saved model would have no tensor {lacking[0]}; report this architecture"
        )


def log_comparison(layout: Layout, changed: Collection[str]) -> None:
    """Log what was compared with the base model, and the tensors that the network does not use."""
    edited = len(layout.edited(changed))
    log.info(
        "Verified: %d tensors edited, the other %d identical to the base model",
        edited,
        len(layout.tensors) - edited,
    )
    if layout.carried:
        log.info(
            "Saved unchanged, although transformers does not load them: %d tensors such as %s",
            len(layout.carried),
            min(layout.carried),
        )

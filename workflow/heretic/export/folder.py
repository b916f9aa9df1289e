"""Common handling of saved folders: atomic creation, with the base model's other files."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from heretic.artifacts import read_json, replacing_folder, write_json
from heretic.console import log
from heretic.errors import ExportError, one_line
from heretic.export.checkpoint import Checkpoint
from heretic.export.configuration import restore_configuration
from heretic.export.layout import Layout
from heretic.export.manifest import manifest
from heretic.export.record import NOT_REPRODUCED
from heretic.export.record_file import RECORD
from heretic.model.own_files import own_files
from heretic.model.template import LEGACY_TEMPLATE, PROCESSOR

# Not copied: written from the network, or specific to the edited model.
NOT_COPIED = ("config.json", "*.index.json", *NOT_REPRODUCED)
# Copied byte for byte: tokenizer, chat template, processors, generation defaults, license. Saving
# the tokenizer in memory would include its left padding, which only the phases here need.
TAKEN_OVER = (
    "*.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.txt",
    "*.md",
    "*.model",
    "*.tiktoken",
    "*.spm",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)


CHAT_TEMPLATE = "chat_template.jinja"


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


def take_over_files(source: Path, target: Path, chat_template: str | None) -> None:
    """Copy the files of the checkpoint in `source` that the edit does not change.

    A user's `chat_template` replaces the checkpoint's, as the model must be used with the template
    it was measured with. Links that point outside the checkpoint are left out with a warning, as an
    upload would publish their targets. `config.json` keeps its form; see `restore_configuration`.
    """
    restore_configuration(source, target)
    own, foreign = own_files(source, TAKEN_OVER)
    for path in foreign:
        log.warning(
            "%s is excluded from the export: it is a link to something other than a file of %s",
            path.name,
            source,
        )
    for path in own:
        if not any(path.match(pattern) for pattern in NOT_COPIED):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    if chat_template is not None:
        (target / CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")
        _forget_processor_template(target)


def _forget_processor_template(folder: Path) -> None:
    """Remove the processor's templates, which take precedence over `chat_template.jinja`."""
    (folder / LEGACY_TEMPLATE).unlink(missing_ok=True)
    path = folder / PROCESSOR
    known = read_json(path) if path.is_file() else {}
    if known.pop("chat_template", None) is not None:
        path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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


def log_comparison(layout: Layout, checkpoint: Checkpoint, changed: Collection[str]) -> None:
    """Log what was compared with the base model, and which tensors the network does not use."""
    edited = len(layout.edited(changed))
    log.info(
        "Verified: %d tensors edited, the other %d identical to the base model",
        edited,
        len(layout.tensors) - edited,
    )
    kept = {checkpoint.stored_name(name) for name in layout.tensors}
    left_out = sorted(checkpoint.files.keys() - kept)
    if left_out:
        log.info(
            "Excluded, because transformers does not load them: %d tensors such as %s",
            len(left_out),
            left_out[0],
        )

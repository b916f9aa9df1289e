"""The edited model as a standard Hugging Face folder, with the hash of every file."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from heretic.artifacts import replacing_folder, write_json
from heretic.errors import ExportError
from heretic.model.loading import Model

RECORD = "ablation.json"
# Written by transformers itself, from the model in memory.
WRITTEN_ANEW = ("config.json", "generation_config.json")
EXTRA_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "LICENSE*")


def save_model(model: Model, folder: Path, max_shard_size: str, record: Mapping[str, Any]) -> None:
    """Write weights, tokenizer, chat template and `ablation.json`; all of it or nothing.

    Args:
        model: the edited model.
        folder: replaced if it exists.
        max_shard_size: such as `5GB`.
        record: what `ablation.json` says of the edit.

    Raises:
        ExportError: the disk is full, or the files do not hold what is in memory.
    """
    try:
        with replacing_folder(folder) as beside:
            model.network.save_pretrained(beside, max_shard_size=max_shard_size)
            model.chat.tokenizer.save_pretrained(beside)
            _copy_extra_files(model.folder, beside)
            verify_weights(model, beside)
            write_json(beside / RECORD, record)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error}; free some space and rerun") from error


def verify_weights(model: Model, folder: Path) -> None:
    """Compare every edited tensor on disk with the one in memory, bit for bit.

    Raises:
        ExportError: a tensor is missing or differs.
    """
    stored: dict[str, Path] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            stored.update(dict.fromkeys(tensors.keys(), path))
    for writer in model.anatomy.writers:
        name = f"{writer.name}.weight"
        if name not in stored:
            raise ExportError(f"the saved model has no tensor {name}; report this architecture")
        with safe_open(stored[name], framework="pt") as tensors:
            if not tensors.get_tensor(name).equal(writer.module.weight.cpu()):
                raise ExportError(f"{name} was not saved as it is in memory; check the disk")


def _copy_extra_files(source: Path, target: Path) -> None:
    """Copy what the checkpoint ships beside its weights and transformers does not write."""
    skipped = {*WRITTEN_ANEW, "model.safetensors.index.json", RECORD, "README.md"}
    for pattern in EXTRA_FILES:
        for path in source.glob(pattern):
            if path.name not in skipped and not (target / path.name).exists():
                shutil.copyfile(path, target / path.name)

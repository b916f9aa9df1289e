"""The edited model as a standard Hugging Face folder, with the hash of every file."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from heretic.artifacts import replacing_folder, write_json
from heretic.errors import ExportError
from heretic.model.loading import Model
from heretic.model.source import weight_hashes

RECORD = "ablation.json"
# Written anew: from the model in memory, or of the edited model only.
WRITTEN_ANEW = ("config.json", "*.index.json", RECORD, "README.md")
# Tokenizer, chat template, generation defaults, licence: taken over byte for byte. Saving the
# tokenizer in memory would write down that it pads on the left, which only the phases here need.
TAKEN_OVER = (
    "*.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.txt",
    "*.model",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)


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
            _take_over_files(model.folder, beside)
            verify_weights(model, beside)
            write_json(beside / RECORD, {**record, "weights": weight_hashes(beside)})
    except (OSError, SafetensorError) as error:
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


def _take_over_files(source: Path, target: Path) -> None:
    """Copy what the edit leaves alone of the checkpoint in `source`."""
    found = (path for pattern in TAKEN_OVER for path in source.glob(pattern))
    for path in found:
        if path.is_file() and not any(path.match(pattern) for pattern in WRITTEN_ANEW):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)

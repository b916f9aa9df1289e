"""Layout of a network in files, determined without its weights.

The network is built on torch's `meta` device, where tensors have names, shapes and types but no
memory, by the same call that loads it with weights. Tied weights, renamed tensors and parts kept in
another type are therefore treated as in `save_pretrained`.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from huggingface_hub.serialization._base import parse_size_to_int
from torch import Tensor
from transformers import PreTrainedModel

from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.edited_tensors import plain_blocks
from heretic.export.unloaded import Unloaded, find_unloaded
from heretic.model.checkpoint_loading import load_checkpoint
from heretic.model.generation import stored_generation
from heretic.model.parameter_layout import Origin, storage_of, trace
from heretic.model.quantization import stored_quantization
from heretic.model.third_party import quiet_transformers, reported_as

SINGLE = "model.safetensors"
SHARDS = "model{suffix}.safetensors"


@dataclass(frozen=True)
class Layout:
    """Files of a saved network.

    Attributes:
        tensors: tensors on the meta device, by the name under which each is saved.
        origins: parameters of the network that each saved tensor consists of.
        shards: names of the tensors by file, in the order of the network.
        total_size: bytes of all tensors.
        total_parameters: number of parameters as stated in the index.
        carried: names of the tensors that transformers does not load, saved as they are.
        lost: names of those that cannot be saved.
    """

    tensors: dict[str, Tensor]
    origins: dict[str, Origin]
    shards: dict[str, list[str]]
    total_size: int
    total_parameters: int
    carried: frozenset[str] = frozenset()
    lost: tuple[str, ...] = ()

    def edited(self, changed: Collection[str]) -> set[str]:
        """Return the names of the saved tensors that contain any of the given parameters."""
        return {
            name
            for name, origin in self.origins.items()
            if not origin.parameters.isdisjoint(changed)
        }

    def index(self) -> str | None:
        """Return the contents of the index file; None for a single file of the usual name."""
        if list(self.shards) == [SINGLE]:
            return None
        files = {name: file for file, names in self.shards.items() for name in names}
        about = {"total_parameters": self.total_parameters, "total_size": self.total_size}
        index = {"metadata": about, "weight_map": files}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"


def empty_network(folder: Path, dtype: str, *, trust_remote_code: bool) -> PreTrainedModel:
    """Return the network of a checkpoint without its weights.

    Raises:
        ExportError: transformers cannot build it.
    """
    with _building(folder):
        network: PreTrainedModel = load_checkpoint(
            folder,
            dtype,
            dequantize=stored_quantization(folder / "config.json") is not None,
            trust_remote_code=trust_remote_code,
            empty=True,
            device_map={"": "meta"},
            generation_config=stored_generation(str(folder), folder),
        )
        _tie_repeated(network, Checkpoint(folder, network.base_model_prefix))
    return network


def _tie_repeated(network: Any, checkpoint: Checkpoint) -> None:
    """Tie weights stored twice in the checkpoint; loading ties them only after comparing values."""
    for repeated, original in network.all_tied_weights_keys.items():
        kept = network.get_parameter(original)
        both_stored = checkpoint.stored_name(repeated) and checkpoint.stored_name(original)
        if network.get_parameter(repeated) is kept or not both_stored:
            continue
        with checkpoint.tensor(repeated) as one, checkpoint.tensor(original) as other:
            pairs = zip(plain_blocks(one, kept.dtype), plain_blocks(other, kept.dtype), strict=True)
            if one.shape == other.shape and all(torch.equal(*pair) for pair in pairs):
                module, _, name = repeated.rpartition(".")
                setattr(network.get_submodule(module), name, kept)


def lay_out(
    network: PreTrainedModel, max_shard_size: str, checkpoint: Checkpoint | None = None
) -> Layout:
    """Return the files in which a network is saved, loaded or on the meta device.

    Names and shards are those of `save_pretrained`. With a checkpoint, its tensors that
    transformers does not load are added, and its shards are kept if they are small enough.

    Args:
        network: network, with or without its weights.
        max_shard_size: maximum size of a file, such as `5GB`.
        checkpoint: files from which the network was built.

    Raises:
        ExportError: the names of the checkpoint cannot be restored.
    """
    extra = Unloaded({}, ())
    with _building(network.name_or_path or type(network).__name__):
        tensors, origins = trace(network)
        if checkpoint is not None:
            extra = find_unloaded(network, checkpoint, tensors)
    tensors |= extra.carried
    origins |= {name: Origin(frozenset(), exact=False) for name in extra.carried}
    # As for tensors with data: those that share memory go into one file and count once.
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.untyped_storage().nbytes(),
        get_storage_id=storage_of,
        filename_pattern=SHARDS,
        max_shard_size=max_shard_size,
    )
    return Layout(
        tensors,
        origins,
        _shards_of(checkpoint, tensors, max_shard_size) or split.filename_to_tensors,
        split.metadata["total_size"],
        network.num_parameters() + sum(tensor.numel() for tensor in extra.carried.values()),
        frozenset(extra.carried),
        extra.lost,
    )


def _shards_of(
    checkpoint: Checkpoint | None, tensors: dict[str, Tensor], max_shard_size: str
) -> dict[str, list[str]] | None:
    """Return the tensors by the checkpoint's own files; None if it has one file or too large ones.

    It is also None if the checkpoint lacks a tensor under the name by which it is saved.
    """
    if checkpoint is None or {path.name for path in checkpoint.files.values()} == {SINGLE}:
        return None
    shards: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        stored = checkpoint.stored_name(name)
        if stored is None:
            return None
        file = checkpoint.files[stored].name
        shards.setdefault(file, []).append(name)
        sizes[file] = sizes.get(file, 0) + tensor.numel() * tensor.itemsize
    too_large = max(sizes.values()) > parse_size_to_int(max_shard_size)
    return None if too_large else dict(sorted(shards.items()))


@contextmanager
def _building(folder: Path | str) -> Iterator[None]:
    what = f"cannot lay out the model in {folder}"
    with reported_as(ExportError, what, "report this architecture"), quiet_transformers():
        yield


def save_configuration(network: Any, folder: Path) -> None:
    """Write the configuration of a network; see `restore_configuration` for the saved one."""
    network.config.dtype = str(network.dtype).removeprefix("torch.")
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(folder)

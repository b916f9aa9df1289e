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
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.edited_tensors import plain_blocks
from heretic.model.checkpoint_loading import load_checkpoint
from heretic.model.generation import stored_generation
from heretic.model.parameter_layout import Origin, storage_of, trace
from heretic.model.quantization import stored_quantization
from heretic.model.third_party import quiet_transformers, reported_as

INDEX = "model.safetensors.index.json"
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
    """

    tensors: dict[str, Tensor]
    origins: dict[str, Origin]
    shards: dict[str, list[str]]
    total_size: int
    total_parameters: int

    def edited(self, changed: Collection[str]) -> set[str]:
        """Return the names of the saved tensors that contain any of the given parameters."""
        return {
            name
            for name, origin in self.origins.items()
            if not origin.parameters.isdisjoint(changed)
        }

    def index(self) -> str | None:
        """Return the contents of the index file, if there are several shards."""
        if len(self.shards) == 1:
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


def lay_out(network: PreTrainedModel, max_shard_size: str) -> Layout:
    """Return the files in which `save_pretrained` saves a network, loaded or on the meta device.

    Raises:
        ExportError: the names of the checkpoint cannot be restored.
    """
    with _building(network.name_or_path or type(network).__name__):
        tensors, origins = trace(network)
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
        split.filename_to_tensors,
        split.metadata["total_size"],
        network.num_parameters(),
    )


@contextmanager
def _building(folder: Path | str) -> Iterator[None]:
    what = f"cannot lay out the model in {folder}"
    with reported_as(ExportError, what, "report this architecture"), quiet_transformers():
        yield


def save_configuration(network: Any, folder: Path) -> None:
    """Write the files that `save_pretrained` writes in addition to the weights."""
    if network.is_remote_code():
        custom_object_save(network, folder, config=network.config)
    network.config.dtype = str(network.dtype).removeprefix("torch.")
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(folder)
    if network.can_generate():
        network.generation_config.save_pretrained(folder)

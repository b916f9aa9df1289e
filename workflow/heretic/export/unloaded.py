"""Tensors that transformers does not load, such as layers that predict further tokens ahead.

Other programs load them, and the configuration declares them, so they are saved unchanged. The
names in the files say little, since loading renames and joins tensors. Each name is therefore
passed through the conversion used for loading, and looked up among the network's own names.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from heretic.export.checkpoint import Checkpoint
from heretic.model.own_files import CONFIG
from heretic.model.quantization import stored_quantization

# Packed matrices and their scales, named like the parameter instead of below the module.
PACKED = re.compile(r"_(blocks|scales|scale_inv|packed)$")


@dataclass(frozen=True)
class Unloaded:
    """Tensors outside of the network.

    Attributes:
        carried: tensors on the meta device that can be saved as they are, by name.
        lost: names of those that cannot, because their type is unknown to torch.
    """

    carried: dict[str, Tensor]
    lost: tuple[str, ...]


def find_unloaded(
    network: PreTrainedModel, checkpoint: Checkpoint, saved: Collection[str]
) -> Unloaded:
    """Return the tensors of a checkpoint that belong to no parameter or buffer of the network.

    Copies of a tied weight, and the scales of quantized weights, belong to the network. Quantized
    matrices outside of it are dequantized, like those of the network.

    Args:
        network: network built from the checkpoint.
        checkpoint: files of the base model.
        saved: names under which the network's own tensors are saved.

    Raises:
        Exception: a transformers error if its conversion cannot be determined.
    """
    kept = {checkpoint.stored_name(name) for name in saved}
    others = sorted(checkpoint.files.keys() - kept)
    if not others:
        return Unloaded({}, ())
    is_loaded = _loading(network)
    outside = [name for name in others if not is_loaded(name)]
    if stored_quantization(checkpoint.folder / CONFIG) is not None:
        modules = {name for name, _ in network.named_modules() if name}
        outside = [name for name in outside if not _describes(name, modules, is_loaded)]
    found = {name: _like(name, checkpoint, network.dtype) for name in outside}
    return Unloaded(
        {name: like for name, like in found.items() if like is not None},
        tuple(name for name, like in found.items() if like is None),
    )


def _like(name: str, checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor | None:
    """Return a tensor on the meta device like a stored one, or like a matrix once dequantized."""
    matrix = checkpoint.packed.matrices.get(name)
    if matrix is not None:
        return torch.empty(matrix.shape, dtype=dtype, device="meta")
    return checkpoint.like(name)


def _loading(network: PreTrainedModel) -> Callable[[str], bool]:
    """Return a function that tells whether loading assigns a tensor of a given name."""
    mapping = get_model_conversion_mapping(network)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    state, prefix = network.state_dict(), network.base_model_prefix

    def is_loaded(name: str) -> bool:
        renamed, _ = rename_source_key(name, renamings, converters, prefix, state)
        # Otherwise, the name may already be the network's own.
        return renamed in state or rename_source_key(name, [], [], prefix, state)[0] in state

    return is_loaded


def _describes(name: str, modules: Collection[str], is_loaded: Callable[[str], bool]) -> bool:
    """Return whether a tensor of a quantized checkpoint describes a weight of the network."""
    module = name.rpartition(".")[0]
    whole = (f"{module}.weight", PACKED.sub("", name), PACKED.sub("", module))
    return module in modules or any(map(is_loaded, whole))

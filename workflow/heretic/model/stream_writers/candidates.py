"""Candidate residual-stream writers, found by shape: maps and parameters of the stream's width."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heretic.errors import ModelLoadError
from heretic.model.devices import brought
from heretic.model.stream_writers.matrices import EDITABLE, is_linear, is_packed_map, is_quantized

INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A linear map, matrix or bias of a layer that may write into the stream.

    Attributes:
        layer: index of its decoder layer.
        name: dotted path of the module or parameter inside the layer.
        path: the same path inside the network.
        module: the map, or the parameter's owner.
        parameter: name of the matrix or bias in `module`.
        raw: whether the module is not a linear map, so that only the parameter can be replaced.
        stream_dim: dimension of the parameter that has the stream's width, -1 or -2.
        bias: whether it is added to the products of all experts, [experts, d_model].
    """

    layer: int
    name: str
    path: str
    module: nn.Module
    parameter: str
    raw: bool
    stream_dim: int
    bias: bool = False

    @property
    def group(self) -> tuple[str, int]:
        """Key shared by candidates with the same role in different layers."""
        return self.name, self.stream_dim

    def is_twin_of(self, other: "Candidate") -> bool:
        """Return whether the two are experts of one list, identical except for their index."""
        mine, theirs = self.module, other.module
        return (
            self.layer == other.layer
            and INDEX.sub("*", f".{self.name}.") == INDEX.sub("*", f".{other.name}.")
            and type(mine) is type(theirs)
            and [p.shape for p in mine.parameters()] == [p.shape for p in theirs.parameters()]
        )


def find_candidates(
    network: PreTrainedModel, layers: Sequence[nn.Module], d_model: int
) -> list[Candidate]:
    """Return candidates ordered by layer, then by appearance.

    Raises:
        ModelLoadError: a candidate belongs to no linear map and is quantized or offloaded, so that
            it can neither be replaced nor identified in its module's output.
    """
    paths = {id(module): path for path, module in network.named_modules()}
    found: list[Candidate] = []
    for index, layer in enumerate(layers):
        for name, module in layer.named_modules():
            if is_linear(module):
                found += _map(index, name, paths[id(module)], module, d_model)
            else:
                found += _raw(index, name, paths[id(module)], module, d_model)
    for candidate in found:
        if candidate.raw:
            _require_replaceable(candidate)
    return found


def require_plain_product(candidate: Candidate) -> None:
    """Reject a custom map class that does more than multiply by its matrix.

    A quantized map represents such a product in the full precision of its original; for edited
    maps, this is verified on that original.

    Raises:
        ModelLoadError: the map quantizes, clamps or adds something, or recomputes its matrix on
            every call.
    """
    module: Any = candidate.module
    if candidate.raw or type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return
    if is_quantized(module, candidate.parameter):
        return
    with brought(module):
        plain = _multiplies(module, candidate.stream_dim == -1)
    if not plain:
        raise ModelLoadError(
            f"{candidate.path} writes to the residual stream and is a {type(module).__name__}, "
            "which does more than multiply by its weights; this architecture is not supported"
        )


def _multiplies(module: Any, transposed: bool) -> bool:
    stored = module._parameters.get("weight")
    if stored is None:
        return False
    weight = stored.mT if transposed else stored
    states = torch.randn(4, weight.shape[1], generator=torch.Generator().manual_seed(0))
    given = 8 * states.to(weight)  # large enough to trigger clamping
    with torch.inference_mode():
        expected = nn.functional.linear(given, weight, module.bias).float()
        miss = (module(given).float() - expected).norm()
    return bool(miss <= 4 * torch.finfo(weight.dtype).eps * expected.norm())


def _map(layer: int, name: str, path: str, module: nn.Module, d_model: int) -> Iterator[Candidate]:
    stored_first = isinstance(module, nn.Linear) or is_packed_map(module)
    width: Any = module.out_features if stored_first else module.nf
    if width == d_model:
        yield Candidate(layer, name, path, module, "weight", False, -2 if stored_first else -1)


def _raw(layer: int, name: str, path: str, module: nn.Module, d_model: int) -> Iterator[Candidate]:
    """Yield matrices that belong to no linear map, once per dimension of the stream's width."""
    parameters = dict(module.named_parameters(recurse=False))
    stacks = {len(parameter) for parameter in parameters.values() if parameter.dim() == 3}
    for parameter_name, parameter in parameters.items():
        if parameter.dim() not in (2, 3):
            continue
        bias = parameter.dim() == 2 and len(parameter) in stacks
        for dim in (-1,) if bias else (-2, -1):
            if parameter.shape[dim] == d_model:
                inside = f"{name}.{parameter_name}"
                inside, whole = inside.lstrip("."), f"{path}.{parameter_name}"
                yield Candidate(layer, inside, whole, module, parameter_name, True, dim, bias)


def _require_replaceable(candidate: Candidate) -> None:
    parameter = getattr(candidate.module, candidate.parameter)
    if parameter.is_meta:
        raise ModelLoadError(
            f"{candidate.path} was offloaded, but matrices outside linear maps, such as those of "
            "experts, must be on a compute device; raise max_memory, or set quantization=bnb_4bit"
        )
    if parameter.dtype not in EDITABLE:
        raise ModelLoadError(
            f"{candidate.path} is quantized ({parameter.dtype}, shape {tuple(parameter.shape)}) "
            "outside a linear map, so its output cannot be determined; use the checkpoint in "
            "bfloat16, with quantization=bnb_4bit if it is too large"
        )

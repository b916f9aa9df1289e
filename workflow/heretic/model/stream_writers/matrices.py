"""Editable matrices, and access to the values of others.

bitsandbytes packs a matrix into a parameter of another shape or type, other programs store integers
in buffers, and accelerate leaves only a placeholder for an offloaded matrix. Such a module can
still be run, and its output can be edited.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from heretic.errors import ModelLoadError
from heretic.model.devices import execution_device

EDITABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
UNITS_AT_ONCE = 1024


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear map, quantized or not."""
    return isinstance(module, nn.Linear | Conv1D) or is_packed_map(module)


def is_packed_map(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a module replaces an `nn.Linear`, like those of GPTQ and AWQ."""
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if isinstance(module, nn.Linear) or not all(isinstance(size, int) for size in sizes):
        return False
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(tensor.dim() == 2 and tensor.dtype not in EDITABLE for tensor in own)


def is_quantized(module: nn.Module, parameter: str) -> bool:
    """Return whether a module stores a matrix in a form that only the module itself can read."""
    stored = module._parameters.get(parameter)
    if stored is None:
        return is_packed_map(module)
    packed = isinstance(module, nn.Linear) and stored.shape != _shape_of(module)
    return stored.dtype not in EDITABLE or packed


def is_offloaded(module: nn.Module, parameter: str) -> bool:
    """Return whether accelerate keeps a matrix elsewhere until its module runs."""
    stored = module._parameters.get(parameter)
    return stored is not None and stored.is_meta


def matrix_shape(module: nn.Module, parameter: str) -> torch.Size:
    """Return the shape that a matrix has when stored unquantized."""
    if is_quantized(module, parameter) and (isinstance(module, nn.Linear) or is_packed_map(module)):
        return _shape_of(module)
    stored: Tensor = getattr(module, parameter)
    return stored.shape


def read_matrix(module: nn.Module, parameter: str, dtype: torch.dtype) -> Tensor:
    """Return a matrix's values: itself or, if quantized, the module's output for unit vectors.

    Packed forms differ between programs and processors; the effective values are obtained from the
    module itself, bypassing hooks that edit its output.

    Args:
        module: module of the matrix; a linear map if it is quantized.
        parameter: name of the matrix.
        dtype: data type of the unit vectors and of the returned values.

    Raises:
        ModelLoadError: the matrix is offloaded.
    """
    if is_offloaded(module, parameter):
        raise ModelLoadError(f"a matrix of {type(module).__name__} is offloaded; raise max_memory")
    if not is_quantized(module, parameter):
        stored: Tensor = getattr(module, parameter).data
        return stored
    linear: Any = module
    device, bias = execution_device(linear), getattr(linear, "bias", None)
    columns = []
    with torch.no_grad():
        for start in range(0, linear.in_features, UNITS_AT_ONCE):
            stop = min(start + UNITS_AT_ONCE, linear.in_features)
            units = torch.arange(start, stop, device=device)
            given = nn.functional.one_hot(units, linear.in_features).to(dtype)
            written: Tensor = linear.forward(given)
            columns.append(written if bias is None else written - bias)
        return torch.cat(columns).mT


def _shape_of(module: nn.Linear) -> torch.Size:
    return torch.Size((module.out_features, module.in_features))

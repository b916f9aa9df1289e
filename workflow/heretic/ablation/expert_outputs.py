"""Verification that a module's output is the sum of its experts if they share one parameter.

Then an edit of every matrix by the same directions is that edit of the output. This holds for most
modules of experts, but a module may add something else or apply a norm.
"""

from typing import Any

import torch
from torch import Tensor, nn

from heretic.errors import ModelLoadError
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import StreamWriter
from heretic.model.stream_writers.candidates import Candidate
from heretic.model.stream_writers.gains import on_ray
from heretic.model.stream_writers.probe import TOKENS, Probe

INSTEAD = "run with edit_mode=weights"


def require_summed_outputs(model: Model) -> bool:
    """Verify, in one pass, that modules of packed matrices output sums of their products.

    With all columns of all matrices, and the biases, replaced by one vector, a module's output must
    be a multiple of that vector.

    Returns:
        Whether each module outputs one row per token; some output one per token and expert.

    Raises:
        ModelLoadError: the output is something else, or was not observed.
    """
    packed = [writer for writer in model.anatomy.writers if writer.is_raw]
    if not packed:
        return True
    _require_own_modules(packed)
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(TOKENS, model.anatomy.d_model, generator=generator)
    row = 1 + torch.randn(model.anatomy.d_model, generator=generator)
    outputs: dict[nn.Module, Any] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module] = output

    handles = [writer.module.register_forward_hook(keep) for writer in packed]
    replaced = {part: row[None] for writer in packed for part in _parts(writer)}
    try:
        Probe(model.network, model.anatomy.layers).run(stream, replaced)
    finally:
        for handle in handles:
            handle.remove()
    for writer in packed:
        if not _is_multiple(outputs.get(writer.module), row, writer.weight.dtype):
            raise ModelLoadError(
                f"the module with {writer.name} does not output the sum of its products, so "
                f"editing its output is not equivalent to editing its weights; {INSTEAD}"
            )
    return all(output.flatten(0, -2).shape[0] == TOKENS for output in outputs.values())


def _require_own_modules(packed: list[StreamWriter]) -> None:
    owners: dict[nn.Module, StreamWriter] = {}
    for writer in packed:
        other = owners.setdefault(writer.module, writer)
        if other is not writer:
            raise ModelLoadError(
                f"{other.name} and {writer.name} share the output of one module, which cannot be "
                f"edited separately; {INSTEAD}"
            )


def _parts(writer: StreamWriter) -> list[Candidate]:
    """Return a writer's parameters as candidates for a probe."""

    def part(parameter: str, dim: int, bias: bool) -> Candidate:
        path = writer.name.removesuffix(writer.parameter) + parameter
        return Candidate(writer.layer, path, path, writer.module, parameter, True, dim, bias)

    matrix = part(writer.parameter, -1 if writer.transposed else -2, False)
    bias = writer.bias_parameter
    return [matrix] if bias is None else [matrix, part(bias, -1, True)]


def _is_multiple(output: Any, row: Tensor, dtype: torch.dtype) -> bool:
    if not isinstance(output, Tensor) or output.shape[-1] != len(row):
        return False
    rows = output.flatten(0, -2).to("cpu", torch.float64)
    return on_ray(rows, rows, row, dtype)

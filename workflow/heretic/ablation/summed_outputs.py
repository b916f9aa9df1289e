"""Verification that a module's output is the sum of its experts, if they are one parameter.

Then an edit of every matrix by the same directions is that edit of the output. Most modules of
experts are like that, but nothing obliges one not to add something else or to apply a norm.
"""

from typing import Any

import torch
from torch import Tensor, nn

from heretic.errors import ModelLoadError
from heretic.model.anatomy import StreamWriter
from heretic.model.candidates import Candidate
from heretic.model.gains import on_ray
from heretic.model.loading import Model
from heretic.model.probe import TOKENS, Probe

INSTEAD = "run with engine=edited_weights"


def require_summed_outputs(model: Model) -> bool:
    """Prove, in one pass, that modules of packed matrices put out sums of their products.

    With all columns of all matrices, and the biases, replaced by one vector, whatever a module puts
    out must be a multiple of that vector.

    Returns:
        Whether each of them puts out one row for each token; some do for each token and expert.

    Raises:
        ModelLoadError: it is something else, or nothing was seen of it.
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
    """Return a writer's parameters as what a probe can replace."""

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

"""Hidden states of the residual stream at the last prompt token (Arditi et al. 2024, §2.3)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from heretic.console import ProgressLine
from heretic.model.batching import by_length, run_in_batches
from heretic.model.decoding import forward, pad_left
from heretic.model.loading import Model
from heretic.model.probe import first_tensor, stream_of
from heretic.prompts.prompt import Prompt


def get_residuals_batched(
    model: Model, prompts: Sequence[Prompt], task: str = "Reading the residual stream"
) -> Tensor:
    """The stream after the embeddings (index 0) and after each layer, where the answer begins.

    Only the last position of each layer is kept, so memory does not grow with prompt length.

    Returns:
        [n_prompts, n_layers + 1, d_model] float32 on the CPU, in the order of `prompts`.
    """
    ids = model.chat.encode(prompts)
    shape = (len(ids), model.anatomy.n_layers + 1, model.anatomy.d_model)
    residuals = torch.empty(shape, dtype=torch.float32)

    def work(indices: Sequence[int]) -> Tensor:
        inputs, mask = pad_left([ids[i] for i in indices], model)
        return _last_position_states(model, inputs, mask)

    order = by_length([len(row) for row in ids])
    with ProgressLine(task, len(ids)) as progress:
        for indices, states in run_in_batches(order, model.batch_size, work):
            residuals[list(indices)] = states
            progress.advance(len(indices))
    return residuals


def _last_position_states(model: Model, inputs: Tensor, mask: Tensor) -> Tensor:
    """Stream states [batch, n_layers + 1, d_model], float32 on the CPU."""
    states: list[Tensor] = []

    def keep_last(hidden: Tensor) -> None:
        states.append(hidden[:, -1].float().cpu())

    def before_first(_: nn.Module, args: Any, kwargs: Any) -> None:
        keep_last(stream_of(args, kwargs))

    def after(_: nn.Module, args: Any, output: Any) -> None:
        keep_last(first_tensor(output))

    layers = model.get_layers()
    handles = [layers[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    handles += [layer.register_forward_hook(after) for layer in layers]
    try:
        forward(model, inputs, mask, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(states, dim=1)

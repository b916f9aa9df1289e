"""Residual-stream states at the start of the answer (Arditi et al. 2024, section 2.3).

States are read at the last prompt token, or at all tokens between the instruction and the answer.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from heretic.console import ProgressLine, log
from heretic.model.batching import by_length, run_in_batches
from heretic.model.decoding import Side, forward, pad
from heretic.model.loading import Model
from heretic.model.memory import PeakMemory
from heretic.model.stream_writers.probe import first_tensor, stream_of
from heretic.prompts.prompt import Prompt

Positions = Literal["last", "all"]
TASK = "Extracting residuals"


@dataclass(frozen=True)
class _Reading:
    """Inputs and options of reading; fields as the arguments of `get_residuals_batched`."""

    positions: Positions
    winsorize_quantile: float
    padding_side: Side

    def n_positions(self, model: Model) -> int:
        return model.chat.n_post_instruction_tokens if self.positions == "all" else 1

    def shape(self, model: Model) -> tuple[int, int, int]:
        return (self.n_positions(model), model.anatomy.n_layers + 1, model.anatomy.d_model)

    def shaped(self, states: Tensor) -> Tensor:
        """Return `states` [..., P, n_layers + 1, d_model] without the axis of a single position."""
        return states if self.positions == "all" else states.squeeze(-3)


def get_residuals_batched(
    model: Model,
    prompts: Sequence[Prompt],
    task: str = TASK,
    *,
    positions: Positions = "last",
    winsorize_quantile: float = 1.0,
    padding_side: Side = "right",
) -> Tensor:
    """Return the stream after the embeddings (index 0) and after each layer at the answer.

    Only the requested positions of each layer are kept, so memory does not grow with prompt length.

    Args:
        model: model to run; its batch size is permanently halved when memory runs out.
        prompts: rendered through the model's chat template.
        task: name for log lines; empty to log nothing.
        positions: `last` reads the last prompt token, `all` the
            `model.chat.n_post_instruction_tokens` tokens of the template between the user's text
            and the answer, the last of which it is.
        winsorize_quantile: if below 1, clips each state as in `winsorize`.
        padding_side: where shorter prompts of a batch are padded. On the right, no token sees the
            padding, even in recurrent and state-space models, which would propagate it.

    Returns:
        [n_prompts, n_layers + 1, d_model], or for `all` [n_prompts, P, n_layers + 1, d_model];
        float32 on the CPU, in the order of `prompts`.

    Raises:
        ModelLoadError: a single prompt runs out of memory.
    """
    reading = _Reading(positions, winsorize_quantile, padding_side)
    residuals = torch.empty((len(prompts), *reading.shape(model)), dtype=torch.float32)
    for indices, states in _batches_of_states(model, prompts, task, reading):
        residuals[indices] = states
    return reading.shaped(residuals)


def get_residual_means(
    model: Model,
    prompts: Sequence[Prompt],
    task: str = TASK,
    *,
    positions: Positions = "last",
    winsorize_quantile: float = 1.0,
    padding_side: Side = "right",
) -> Tensor:
    """Return the mean of `get_residuals_batched` over `prompts`, without storing all states.

    Memory does not grow with the number of prompts: each batch is added to a float64 sum, which is
    not affected by rounding over thousands of states, and discarded.

    Returns:
        [n_layers + 1, d_model], or for `all` [P, n_layers + 1, d_model]; float64 on the CPU.

    Raises:
        ModelLoadError: a single prompt runs out of memory.
        ValueError: there are no prompts.
    """
    if not prompts:
        raise ValueError("no prompts to average; provide at least one")
    reading = _Reading(positions, winsorize_quantile, padding_side)
    total = torch.zeros(reading.shape(model), dtype=torch.float64)
    for _, states in _batches_of_states(model, prompts, task, reading):
        total += states.sum(0, dtype=torch.float64)
    return reading.shaped(total / len(prompts))


def winsorize(states: Tensor, quantile: float) -> Tensor:
    """Clip the components of each state to +- the ceil(quantile * d)-th smallest magnitude.

    Residual streams have a few components thousands of times as large as the others (Sun et al.
    2024, "Massive activations"), which otherwise dominate every mean and covariance. Non-finite
    values are unchanged, so that later phases detect them.

    Args:
        states: [..., d] floating point; too many values for `torch.quantile`.
        quantile: in (0, 1]; 1 changes nothing.

    Returns:
        A tensor like `states`.
    """
    if quantile >= 1:
        return states
    rank = math.ceil(quantile * states.shape[-1])
    limit = states.abs().kthvalue(rank, dim=-1, keepdim=True).values
    return torch.where(states.isfinite(), states.clamp(-limit, limit), states)


def _batches_of_states(
    model: Model, prompts: Sequence[Prompt], task: str, reading: _Reading
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield indices of prompts and their states [batch, P, n_layers + 1, d_model], longest first.

    States are float32 on the CPU. The cost is logged at the end.
    """
    ids = model.chat.encode(prompts)

    def work(indices: Sequence[int]) -> Tensor:
        inputs, mask = pad([ids[i] for i in indices], model, reading.padding_side)
        return _states_of_batch(model, inputs, mask, reading)

    lengths = [len(row) for row in ids]
    memory, started = PeakMemory(model.network), time.monotonic()
    with ProgressLine(task, len(ids)) as progress:
        for indices, states in run_in_batches(by_length(lengths), model.batch_size, work):
            yield list(indices), states
            progress.advance(len(indices))
    if task:
        _log_effort(task, lengths, time.monotonic() - started, memory)


def _log_effort(task: str, lengths: Sequence[int], seconds: float, memory: PeakMemory) -> None:
    tokens = sum(lengths)  # without padding, which is not useful work
    log.info(
        "%s: %d prompts, %d tokens in %.1f s (%.0f tokens/s), peak memory %s",
        task,
        len(lengths),
        tokens,
        seconds,
        tokens / max(seconds, 1e-9),
        memory,
    )


def _states_of_batch(model: Model, inputs: Tensor, mask: Tensor, reading: _Reading) -> Tensor:
    """Return stream states [batch, P, n_layers + 1, d_model], float32 on the CPU."""
    rows = torch.arange(len(inputs), device=inputs.device)[:, None]
    columns = _last_tokens(mask, reading.n_positions(model))
    states: list[Tensor] = []

    def keep(hidden: Tensor) -> None:
        # The layers of one network may be on several devices.
        there = hidden[rows.to(hidden.device), columns.to(hidden.device)].float()
        states.append(winsorize(there, reading.winsorize_quantile).cpu())

    def before_first(_: nn.Module, args: Any, kwargs: Any) -> None:
        keep(stream_of(args, kwargs))

    def after(_: nn.Module, args: Any, output: Any) -> None:
        keep(first_tensor(output))

    layers = model.get_layers()
    handles = [layers[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    handles += [layer.register_forward_hook(after) for layer in layers]
    try:
        forward(model, inputs, mask, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(states, dim=2)


def _last_tokens(mask: Tensor, count: int) -> Tensor:
    """Return the columns [batch, count] of each row's last tokens, wherever its padding is."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * columns).amax(dim=1, keepdim=True)
    return last + torch.arange(1 - count, 1, device=mask.device)

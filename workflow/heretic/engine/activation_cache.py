"""Cache of the unedited network's activations for the prompts, reused by trials.

For every batch, the inputs of some layers are kept, and the keys and values of all layers below the
last of these. An edit whose first layer is l changes nothing before it, so a pass may start at the
last kept layer up to l.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from heretic.ablation.weights_cache import profits_from_pinning
from heretic.engine.kv_cache import KeyValues, each_part, read_key_values
from heretic.engine.prefill import Prefilled, PromptBatch, ResumePoint, prefill
from heretic.model.loading import Model
from heretic.model.memory import GIGABYTE, SHARE_OF_FREE_MEMORY, free_memory
from heretic.model.stream_writers.probe import stream_of


@dataclass(frozen=True)
class CachedActivations:
    """Recording of one pass of the unedited network over a batch.

    Attributes:
        inputs: inputs of some layers [batch, tokens, d_model], by layer.
        key_values: keys and values of the batch's own tokens, up to the last usable layer.
        n_outputs: as in `ResumePoint`.
    """

    inputs: dict[int, Tensor] = field(default_factory=dict)
    key_values: KeyValues = field(default_factory=list)
    n_outputs: int = 0

    def start(self, first_changed: int, devices: Sequence[torch.device]) -> ResumePoint | None:
        """Return the start of a pass in which all layers before `first_changed` are unchanged.

        Args:
            first_changed: index of a layer; may be the number of layers.
            devices: device of each layer, to which data kept elsewhere is copied.
        """
        layer = last_kept(self.inputs, first_changed)
        if layer == 0:
            return None
        key_values = [
            None if part is None else (_on(part[0], device), _on(part[1], device))
            for part, device in zip(self.key_values[:layer], devices, strict=False)
        ]
        return ResumePoint(
            layer, _on(self.inputs[layer], devices[layer]), key_values, self.n_outputs
        )

    def rows(self, first: int, last: int) -> "CachedActivations":
        """Return the recording of some rows of the batch; views."""
        part = slice(first, last)
        return CachedActivations(
            {layer: states[part] for layer, states in self.inputs.items()},
            each_part(self.key_values, lambda kept: kept[part]),
            self.n_outputs,
        )


def last_kept(layers: Collection[int], layer: int) -> int:
    """Return the last of some layers up to `layer`; if none, 0, where any pass may start."""
    return max((kept for kept in layers if kept <= layer), default=0)


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class ActivationCachePlan:
    """Plan of the recording.

    Attributes:
        layers: layers whose inputs are recorded.
        on_host: whether the recording is in main memory, rather than on the model's devices.
        n_bytes: size of the recording.
        answer_tokens: number of answer tokens whose states are kept in addition.
    """

    layers: tuple[int, ...] = ()
    on_host: bool = False
    n_bytes: float = 0.0
    answer_tokens: int = 0

    def __str__(self) -> str:
        if not self.layers:
            return "trials start at the first layer: no inputs are kept"
        return (
            f"trials start at their first edited layer, or one of {len(self.layers)} earlier "
            f"layers: {self.n_bytes / GIGABYTE:.3f} GB kept {'in main memory' * self.on_host}"
        ).rstrip()


def record(
    model: Model, batch: PromptBatch, prefix: KeyValues | None, plan: ActivationCachePlan
) -> tuple[Prefilled, CachedActivations]:
    """Run one pass over a batch; return its result and recording."""
    seen: dict[int, Tensor] = {}
    n_outputs: list[int] = [0]
    with watching(model.get_layers(), plan.layers, seen, n_outputs):
        prefilled = prefill(model, batch, prefix)
    if not plan.layers:
        return prefilled, CachedActivations()
    parts = read_key_values(prefilled.cache, batch.n_cached)[: max(plan.layers)]
    kept = each_part(parts, lambda part: _keep(part, plan))
    inputs = {layer: _keep(states, plan) for layer, states in seen.items()}
    return prefilled, CachedActivations(inputs, kept, n_outputs[0])


def _keep(tensor: Tensor, plan: ActivationCachePlan) -> Tensor:
    """Return a copy, since a view would keep a larger tensor alive."""
    if not plan.on_host:
        return tensor.clone(memory_format=torch.contiguous_format)
    pinned = profits_from_pinning(tensor.device)
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned).copy_(tensor)


@contextmanager
def watching(
    layers: Sequence[nn.Module],
    wanted: Sequence[int],
    seen: dict[int, Tensor],
    n_outputs: list[int],
) -> Iterator[None]:
    """Record, within the block, the inputs of layers and the size of an output."""

    def watch(layer: int) -> Any:
        def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
            seen[layer] = stream_of(args, kwargs)

        return layers[layer].register_forward_pre_hook(keep, with_kwargs=True)

    def count(_: nn.Module, __: Any, output: Any) -> None:
        n_outputs[0] = 0 if isinstance(output, Tensor) else len(output)

    handles = [watch(layer) for layer in wanted]
    handles.append(layers[0].register_forward_hook(count))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def plan_recording(
    model: Model, batches: Sequence[PromptBatch], prefix: PromptBatch | None, gigabytes: float
) -> ActivationCachePlan:
    """Plan evenly spaced layers that fit into the given number of gigabytes, and their location.

    The devices of the model are preferred if they have room; main memory is slower to read.
    """
    layers, n_layers = model.get_layers(), model.anatomy.n_layers
    sample = batches[-1].rows(0, 1)
    whole = PromptBatch(
        sample.indices, sample.inputs, sample.mask[:, sample.n_cached :], sample.positions
    )
    seen: dict[int, Tensor] = {}
    with watching(layers, range(n_layers), seen, [0]):
        cache = prefill(model, whole).cache
    n_tokens = whole.inputs.shape[1]
    of_states = [seen[layer].nbytes / n_tokens for layer in range(n_layers)]
    of_cache = [
        0.0 if part is None else (part[0].nbytes + part[1].nbytes) / n_tokens
        for part in read_key_values(cache)
    ]
    tokens = sum(b.inputs.numel() for b in [*batches, *([prefix] if prefix else [])])

    def needed(kept: Sequence[int]) -> float:
        return tokens * (sum(of_states[i] for i in kept) + sum(of_cache[: max(kept, default=0)]))

    budget = gigabytes * GIGABYTE
    on_device = SHARE_OF_FREE_MEMORY * free_memory(model.device)
    on_host = SHARE_OF_FREE_MEMORY * free_memory(torch.device("cpu"))
    for step in range(1, n_layers):
        kept = tuple(range(step, n_layers, step))
        total = needed(kept)
        if total <= min(budget, max(on_device, on_host)):
            left = max(0.0, min(budget, on_device) - total)
            return ActivationCachePlan(kept, total > on_device, total, int(left / (total / tokens)))
    return ActivationCachePlan()

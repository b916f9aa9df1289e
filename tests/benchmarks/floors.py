"""What a trial cannot be faster than on a device: its arithmetic and its memory traffic.

Prefill takes at least 2 operations a parameter and token over the rate of a large product of
matrices. Decoding takes at least the bytes of the weights, once a step for all rows of a batch,
and of the keys and values of every row, over the bandwidth of a large copy, which counts what is
read and what is written.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from heretic.ablation.plan import Edit
from heretic.ablation.weight_editor import WeightEditor
from heretic.model.loading import Model

ROUNDS = 20


@dataclass(frozen=True)
class Rates:
    """Operations and bytes a second."""

    operations: float
    bandwidth: float


@dataclass(frozen=True)
class Sizes:
    """What of a model is read, by what for.

    Attributes:
        body: parameters that every token goes through.
        head: parameters of the output layer.
        kv_bytes: bytes of the keys and values of one token.
        itemsize: bytes of a parameter.
    """

    body: int
    head: int
    kv_bytes: int
    itemsize: int


@dataclass(frozen=True)
class Floor:
    """Seconds of a trial."""

    prefill: float
    decode: float

    @property
    def total(self) -> float:
        """Both, one after the other."""
        return self.prefill + self.decode


def seconds(work: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Median time of `work`, with what it leaves to the device; a first round warms up."""
    times = []
    for _ in range(rounds + 1):
        started = _now(device)
        work()
        times.append(_now(device) - started)
    return statistics.median(times[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_rates(device: torch.device, dtype: torch.dtype, side: int, n_bytes: int) -> Rates:
    """The rates of a product of two square matrices and of a copy."""
    one, two = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(one)
    multiplying = seconds(lambda: torch.mm(one, two, out=product), device)
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source)
    copying = seconds(lambda: target.copy_(source), device)
    return Rates(2 * side**3 / multiplying, 2 * n_bytes / copying)


def sizes_of(model: Model) -> Sizes:
    """Of a dense model with one kind of layer."""
    network: Any = model.network
    config = network.config
    embeddings = network.get_input_embeddings().weight
    head = network.get_output_embeddings().weight
    tied = head.data_ptr() == embeddings.data_ptr()
    outside = embeddings.numel() + (0 if tied else head.numel())
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Sizes(
        body=network.num_parameters() - outside,
        head=head.numel(),
        kv_bytes=2 * config.num_hidden_layers * config.num_key_value_heads * width * head.itemsize,
        itemsize=head.itemsize,
    )


def floor_of(
    sizes: Sizes, rates: Rates, lengths: Sequence[int], tokens: int, batches: float
) -> Floor:
    """Seconds that a trial takes at least.

    Args:
        sizes: of the model.
        rates: of the device.
        lengths: tokens of each prompt that is answered, none of which is read twice.
        tokens: of each answer, of which prefill gives the first.
        batches: in which a trial's answers are decoded; less than 1 where trials share one.
    """
    operations = 2 * (sizes.body * sum(lengths) + sizes.head * len(lengths))
    steps = max(0, tokens - 1)
    weights = (sizes.body + sizes.head) * sizes.itemsize * steps * batches
    # At step t a row has its prompt and t tokens of the answer behind it.
    held = sum(lengths) * steps + len(lengths) * steps * (steps + 1) // 2
    moved = weights + held * sizes.kv_bytes
    return Floor(operations / rates.operations, moved / rates.bandwidth)


def restore_and_ablate(editor: WeightEditor, edits: Sequence[Edit]) -> tuple[int, float]:
    """Bytes that the edit of all these matrices moves at least, and the seconds that it takes.

    Each matrix is read once from its copy and written once. Every round has other strengths than
    the one before, so that none has nothing to do.
    """
    moved = 2 * sum(edit.writer.weight.nbytes for edit in edits)
    halved = [replace(edit, strengths=tuple(s / 2 for s in edit.strengths)) for edit in edits]
    turns = itertools.cycle((edits, halved))
    taken = seconds(lambda: editor.abliterate(next(turns)), editor.model.device)
    editor.restore()
    return moved, taken

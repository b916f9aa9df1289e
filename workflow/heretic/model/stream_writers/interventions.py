"""Interventions on a network that identify its stream writers, and their evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heretic.model.stream_writers.candidates import Candidate
from heretic.model.stream_writers.probe import TOKENS, Observation, Place, Probe

# The stream is small relative to the written outputs, so that rounding in half precision affects
# them little.
STREAM_SIZE = 1 / 16
UNSUPPORTED = "this architecture is not supported"


@dataclass(frozen=True)
class Proposal:
    """A candidate whose output arrives in the stream.

    Attributes:
        gain: factors per channel [d_model]; None if they are all equal.
        size: factor by which an output is enlarged so that it is not lost to rounding.
    """

    gain: Tensor | None
    size: float = 1.0

    def ray(self, output: Tensor) -> Tensor:
        """Return the expected ray in the stream for an output [d_model]."""
        return output if self.gain is None else self.gain * output.to(self.gain)


class Interventions:
    """Passes with some candidates silent and others writing known outputs.

    Attributes:
        probe: runs the passes.
        candidates: potential writers.
        dtype: data type of the network's computation.
        streams: two streams [tokens, d_model] with the same end, which only maps with access to
            earlier positions can distinguish there.
        signs: an output [d_model] of +1 and -1.
        other: another output, with a nonzero mean, which some norms remove.
        scales: constant by which each layer multiplies its stream, 1 in most architectures.
    """

    def __init__(self, probe: Probe, candidates: Sequence[Candidate], d_model: int) -> None:
        self.probe, self.candidates = probe, candidates
        self.dtype = probe.network.dtype
        generator = torch.Generator().manual_seed(0)
        self.streams = STREAM_SIZE * torch.randn(2, TOKENS, d_model, generator=generator)
        self.streams[1, -1] = self.streams[0, -1]
        self.signs = torch.randn(d_model, generator=generator).sign()
        self.other = 1 + torch.randn(d_model, generator=generator)
        self.scales = [1.0] * len(probe.layers)
        self._read_scales()

    def _read_scales(self) -> None:
        """Measure the constant by which each layer multiplies its stream, usually 1."""
        seen = self.run(silent(self.candidates))
        for layer, after in seen.after.items():
            before = seen.before[layer]
            scale = float((after * before).sum() / before.square().sum())
            rounding = self._rounding(after)
            if not after.equal(before) and bool(((after - scale * before).abs() <= rounding).all()):
                self.scales[layer] = scale

    def run(
        self,
        replaced: Mapping[Candidate, Tensor],
        stream: Tensor | None = None,
        *,
        watched: Iterable[Place] = (),
    ) -> Observation:
        """Run one pass, with the first stream unless another is given."""
        given = self.streams[0] if stream is None else stream
        return self.probe.run(given, replaced, watched=watched)

    def update(self, seen: Observation, layer: int) -> Tensor:
        """Return a layer's update of its stream [tokens, d_model]."""
        return seen.after[layer] - self.scales[layer] * seen.before[layer]

    def is_nothing(self, update: Tensor, seen: Observation, layer: int) -> bool:
        """Return whether a layer left its stream unchanged, bitwise unless the layer scales it."""
        if self.scales[layer] == 1:
            return not update.any()
        return bool((update.abs() <= self._rounding(seen.after[layer])).all())

    def _rounding(self, after: Tensor) -> Tensor:
        return 2 * torch.finfo(self.dtype).eps * after.abs()


def silent(candidates: Iterable[Candidate]) -> dict[Candidate, Tensor]:
    """Return replacements with which candidates write zero."""
    return {candidate: torch.zeros(TOKENS, 1) for candidate in candidates}


def writing(
    group: Iterable[Candidate], row: Tensor, sizes: Mapping[Candidate, float] | None = None
) -> dict[Candidate, Tensor]:
    """Return replacements that write one output in two sizes, which a norm would equalize."""
    rows = (1 + torch.arange(TOKENS) % 2)[:, None] * row
    return {candidate: (sizes[candidate] if sizes else 1.0) * rows for candidate in group}


def in_groups(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Return groups of candidates tested together: those of the same name in different layers."""
    groups: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.group, []).append(candidate)
    return list(groups.values())

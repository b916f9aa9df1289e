"""The questions by which the writers of a network are found and proved.

1. With every candidate silent, what a layer hands on is its stream, times one constant.
2. A map that is made to write plus and minus one into a layer whose other candidates are silent
   shows whether that arrives, and by which factor per channel. So does a matrix of experts, the
   columns of all of which are replaced by one vector.
3. With those that arrive silent, and everything else at work, a layer must hand on its stream
   and nothing else: then nothing else writes.
4. Among everything else at work, what each of them is made to write must arrive along the factors
   that were read, so that no gate or norm turns a direction on its way.

Of a list of experts in modules of their own, those that none of the probe's tokens is sent to take
the proof of another of the same list, class and shapes. A matrix of all experts is proved as one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heretic.errors import ModelLoadError
from heretic.model.candidates import Candidate, require_plain_product
from heretic.model.components import ATTENTION, MLP
from heretic.model.gains import HALF_TOLERANCE, TOLERANCE, on_ray, read_gain
from heretic.model.probe import TOKENS, Observation, Place, Probe
from heretic.model.writer import StreamWriter

# The stream is small beside what is written into it, so that half precision rounds little of that
# away.
STREAM_SIZE = 1 / 16
NAMED = 6
# Matrices are made larger by no more than its inverse.
SMALLEST = 1e-6
UNSUPPORTED = "this architecture is not supported"


@dataclass(frozen=True)
class Proposal:
    """A candidate that arrives.

    Attributes:
        gain: along which factors [d_model]; None if they are all alike.
        size: by what factor an output is made larger, so that what arrives is not lost in rounding.
    """

    gain: Tensor | None
    size: float = 1.0

    def ray(self, output: Tensor) -> Tensor:
        """Where an output [d_model] should point in the stream."""
        return output if self.gain is None else self.gain * output.to(self.gain)


class Dissection:
    """The questions asked of a network, one or a few passes each."""

    def __init__(self, probe: Probe, candidates: Sequence[Candidate], d_model: int) -> None:
        self.probe, self.candidates = probe, candidates
        self.dtype = probe.network.dtype
        generator = torch.Generator().manual_seed(0)
        self.streams = STREAM_SIZE * torch.randn(2, TOKENS, d_model, generator=generator)
        # Both streams end alike: only what looks back can tell them apart there.
        self.streams[1, -1] = self.streams[0, -1]
        self.sizes = (1 + torch.arange(TOKENS) % 2)[:, None]
        self.signs = torch.randn(d_model, generator=generator).sign()
        # Off its mean, which some norms take away.
        self.other = 1 + torch.randn(d_model, generator=generator)
        self.zero = torch.zeros(TOKENS, d_model)
        self.scales = [1.0] * len(probe.layers)
        self.found: dict[Candidate, Proposal] = {}
        self.used: set[Candidate] = set()

    def find_writers(self) -> list[StreamWriter]:
        """The candidates that write into the stream, with their components.

        Raises:
            ModelLoadError: something else writes too, or what a candidate writes is changed on
                its way by more than a gain.
        """
        self._read_scales()
        self._try_maps()
        self._try_matrices()
        self._adopt_twins()
        silent = self._silent(self.found)
        mixing = self._mixing(self._require_explained(silent))
        for group in _groups(self.found):
            mixing |= self._require_proved(group, silent)
        return self._writers(mixing)

    def _read_scales(self) -> None:
        """By what constant a layer multiplies its stream, which is 1 in most."""
        seen = self._run(self._silent(self.candidates))
        for layer, after in seen.after.items():
            before = seen.before[layer]
            scale = float((after * before).sum() / before.square().sum())
            rounding = 2 * torch.finfo(self.dtype).eps * after.abs()
            if not after.equal(before) and bool(((after - scale * before).abs() <= rounding).all()):
                self.scales[layer] = scale

    def _try_maps(self) -> None:
        """With everything else silent, so that what arrives is of the map alone."""
        silent = self._silent(self.candidates)
        for group in _groups(c for c in self.candidates if not c.raw):
            seen = self._run({**silent, **self._writing(group, self.signs)})
            for candidate in group:
                update = self._update(seen, candidate.layer)
                if self._is_nothing(update, seen, candidate.layer):
                    continue
                if not self._propose(candidate, update, seen):
                    self._require_silence(candidate.layer, silent)
                    raise ModelLoadError(
                        f"{candidate.path} writes into the residual stream through a step that "
                        "mixes channels or positions, where a projection of its weights would "
                        f"not remove the direction; {UNSUPPORTED}"
                    )

    def _try_matrices(self) -> None:
        """Until a round finds no more: what comes later hides what comes before while at work."""
        left, progress = _groups(c for c in self.candidates if c.raw), True
        while left and progress:
            known = len(self.found)
            for group in left:
                self._try_group(group)
            taken = {(c.module, c.parameter) for c in self.found}
            left = [[c for c in group if (c.module, c.parameter) not in taken] for group in left]
            left = [group for group in left if group]
            progress = len(self.found) > known

    def _try_group(self, group: Sequence[Candidate]) -> None:
        """Replace matrices whose inputs are at work, and look at what that changes."""
        others = [c for c in self.candidates if c.raw and c.bias != group[0].bias]
        # A bias is added whatever an expert's input is; other matrices may make that input.
        context = self._silent([*self.found, *(c for c in others if c.bias or group[0].bias)])
        base = self._run({**context, **self._silent(group)})
        seen = self._run({**context, **self._writing(group, self.signs)})
        enlarged = {c: 1 / min(max(self._size(seen, base, c), SMALLEST), 1) for c in group}
        passes = [
            self._run({**context, **self._writing(group, row, enlarged)})
            for row in (self.signs, self.other)
        ]
        for candidate in group:
            one, other = (
                seen.after[candidate.layer] - base.after[candidate.layer] for seen in passes
            )
            if self._propose(candidate, one, passes[0], enlarged[candidate]):
                ray, after = self.found[candidate].ray(self.other), passes[1].after[candidate.layer]
                if not on_ray(other, after, ray, self.dtype):
                    del self.found[candidate]

    def _propose(
        self, candidate: Candidate, update: Tensor, seen: Observation, size: float = 1.0
    ) -> bool:
        """Whether an update is that of an output of `signs`."""
        if not update.any():
            return False
        layer = self.probe.layers[candidate.layer]
        proposal = Proposal(read_gain(update, self.signs.to(update), layer, self.dtype), size)
        if on_ray(update, seen.after[candidate.layer], proposal.ray(self.signs), self.dtype):
            self.found[candidate] = proposal
        return candidate in self.found

    def _adopt_twins(self) -> None:
        """Settle what no token used."""
        for candidate in self.candidates:
            if candidate in self.used or candidate in self.found:
                continue
            twins = [other for other in self.used if candidate.is_twin_of(other)]
            if not twins:
                raise ModelLoadError(
                    f"{self.probe.architecture} does not use {candidate.path} on every token, so "
                    f"it cannot be told whether that writes into the residual stream; {UNSUPPORTED}"
                )
            if twins[0] in self.found:
                self.found[candidate] = self.found[twins[0]]

    def _require_explained(self, silent: Mapping[Candidate, Tensor]) -> list[Observation]:
        """Two passes with the writers silent, in which every layer must hand on its stream."""
        watched = {place for candidate in self.found for place in _places(candidate)}
        passes = [self._run(silent, stream, watched=watched) for stream in self.streams]
        for seen in passes:
            for layer in range(len(self.scales)):
                self._require_silence(layer, silent, seen)
        return passes

    def _require_silence(
        self, layer: int, silent: Mapping[Candidate, Tensor], seen: Observation | None = None
    ) -> None:
        """A layer must hand on its stream when some of its candidates are silent."""
        seen = seen or self._run(silent)
        update = self._update(seen, layer)
        if not self._is_nothing(update, seen, layer):
            raise ModelLoadError(
                f"layer {layer} of {self.probe.architecture} still changes the residual stream "
                "with the linear maps silenced that write into it, through "
                f"{self._other_writers(layer, silent, update)}, so an edit would be partial; "
                f"{UNSUPPORTED}"
            )

    def _other_writers(self, layer: int, silent: Mapping[Candidate, Tensor], update: Tensor) -> str:
        """Modules of a layer without whose parameters it would change its stream otherwise."""
        known = {candidate.module for candidate in silent if not candidate.raw}
        paths = {module: name for name, module in self.probe.network.named_modules()}
        left: dict[str, float] = {}
        for module in self.probe.layers[layer].modules():
            names = [name for name, _ in module.named_parameters(recurse=False)]
            if names and module not in known:
                gone = {
                    Candidate(layer, name, name, module, name, True, -1): torch.zeros(1, 1)
                    for name in names
                }
                changed = self._update(self._run({**silent, **gone}), layer)
                left[paths[module]] = float(changed.norm() / update.norm())
        alone = [path for path, share in left.items() if share <= HALF_TOLERANCE]
        part = [path for path, share in left.items() if abs(share - 1) > HALF_TOLERANCE]
        named = alone or part or list(left) or [paths[self.probe.layers[layer]]]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        return f"{'' if alone else 'some of '}{', '.join(named[:NAMED])}{more}"

    def _require_proved(
        self, group: Sequence[Candidate], silent: Mapping[Candidate, Tensor]
    ) -> set[Candidate]:
        """Another output must arrive as the first did. Which of the matrices mix positions."""
        enlarged = {candidate: self.found[candidate].size for candidate in group}
        replaced = {**silent, **self._writing(group, self.other, enlarged)}
        seen = self._run(replaced)
        for candidate in group:
            update, after = self._update(seen, candidate.layer), seen.after[candidate.layer]
            if on_ray(update, after, self.found[candidate].ray(self.other), self.dtype):
                continue
            if candidate in seen.used or candidate.raw:
                raise ModelLoadError(
                    f"what {candidate.path} writes is changed on its way to the residual stream by "
                    "a norm, a gate or another step that depends on the state, where a projection "
                    f"of its weights would not remove the direction; {UNSUPPORTED}"
                )
        if not group[0].raw:
            return set()
        again = self._run(replaced, self.streams[1])
        return {c for c in group if self._differ(seen.after[c.layer][-1], again.after[c.layer][-1])}

    def _differ(self, one: Tensor, other: Tensor) -> bool:
        share = TOLERANCE.get(self.dtype, HALF_TOLERANCE)
        return bool((one - other).norm() > share * one.norm())

    def _mixing(self, passes: Sequence[Observation]) -> set[Candidate]:
        """Maps whose input at the last position depends on the positions before it."""
        mixing = set()
        for candidate in self.found:
            places = [p for p in _places(candidate) if all(p in seen.inputs for seen in passes)]
            if places and not candidate.raw:
                one, other = (seen.inputs[places[0]][-1] for seen in passes)
                if (one - other).norm() > 1e-6 * one.norm():
                    mixing.add(candidate)
        return mixing

    def _writers(self, mixing: set[Candidate]) -> list[StreamWriter]:
        biases = _biases([c for c in self.found if c.raw])
        writers = [c for c in self.candidates if c in self.found and not c.bias]
        for candidate in writers:
            require_plain_product(candidate)
        return [
            StreamWriter(
                layer=c.layer,
                component=ATTENTION if c in mixing else MLP,
                name=c.path,
                module=c.module,
                parameter=c.parameter,
                bias_parameter=biases.get(c) if c.raw else _bias_of(c.module),
                transposed=c.stream_dim == -1,
                gain=self.found[c].gain,
            )
            for c in writers
        ]

    def _silent(self, candidates: Iterable[Candidate]) -> dict[Candidate, Tensor]:
        return dict.fromkeys(candidates, self.zero)

    def _writing(
        self,
        group: Iterable[Candidate],
        row: Tensor,
        sizes: Mapping[Candidate, float] | None = None,
    ) -> dict[Candidate, Tensor]:
        """An output in two sizes, which a norm would make equal."""
        return {c: (sizes[c] if sizes else 1.0) * self.sizes * row for c in group}

    def _run(
        self,
        replaced: Mapping[Candidate, Tensor],
        stream: Tensor | None = None,
        *,
        watched: Iterable[Place] = (),
    ) -> Observation:
        given = self.streams[0] if stream is None else stream
        seen = self.probe.run(given, replaced, watched=watched)
        self.used |= seen.used
        return seen

    def _update(self, seen: Observation, layer: int) -> Tensor:
        return seen.after[layer] - self.scales[layer] * seen.before[layer]

    def _size(self, seen: Observation, base: Observation, candidate: Candidate) -> float:
        """How large an output of `signs` arrived, at most."""
        update = seen.after[candidate.layer] - base.after[candidate.layer]
        return float(update.norm(dim=-1).max() / self.signs.norm())

    def _is_nothing(self, update: Tensor, seen: Observation, layer: int) -> bool:
        """Whether a layer handed on its stream, bit for bit unless it multiplies that."""
        if self.scales[layer] == 1:
            return not update.any()
        rounding = 2 * torch.finfo(self.dtype).eps * seen.after[layer].abs()
        return bool((update.abs() <= rounding).all())


def _groups(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Candidates that are tried at once: those of one name, which lie in different layers."""
    groups: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.group, []).append(candidate)
    return list(groups.values())


def _places(candidate: Candidate) -> list[Place]:
    """A candidate's module and those around it, from the inside out."""
    name = candidate.name.rpartition(".")[0] if candidate.raw else candidate.name
    parts = name.split(".")
    return [(candidate.layer, ".".join(parts[:n])) for n in range(len(parts), 0, -1)]


def _bias_of(module: nn.Module) -> str | None:
    return "bias" if getattr(module, "bias", None) is not None else None


def _biases(found: Sequence[Candidate]) -> dict[Candidate, str]:
    """The bias of each matrix of experts."""
    paired: dict[Candidate, str] = {}
    for bias in (candidate for candidate in found if candidate.bias):
        owners = [c for c in found if c.module is bias.module and not c.bias]
        named = [c for c in owners if bias.parameter.startswith(c.parameter)] or owners
        if len(named) != 1 or named[0] in paired:
            raise ModelLoadError(
                f"{bias.path} writes into the residual stream, and it cannot be told to which "
                f"matrix it belongs; {UNSUPPORTED}"
            )
        paired[named[0]] = bias.parameter
    return paired

"""Verification that the detected writers write as expected, and that nothing else writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heretic.errors import ModelLoadError
from heretic.model.stream_writers.candidates import Candidate
from heretic.model.stream_writers.gains import HALF_TOLERANCE, TOLERANCE, on_ray
from heretic.model.stream_writers.interventions import (
    UNSUPPORTED,
    Interventions,
    Proposal,
    in_groups,
    silent,
    writing,
)
from heretic.model.stream_writers.matrices import EDITABLE, is_quantized
from heretic.model.stream_writers.probe import Observation, Place

NAMED = 6


@dataclass(frozen=True)
class Proof:
    """Verification of writers, silenced or writing known outputs while everything else is active.

    Attributes:
        experiment: experiment on the network.
        found: the writers.
        adopted: writers that adopt the proof of another expert of their list.
    """

    experiment: Interventions
    found: Mapping[Candidate, Proposal]
    adopted: set[Candidate]

    def mixing(self) -> set[Candidate]:
        """Verify all writers, and return those whose input depends on earlier positions.

        Raises:
            ModelLoadError: something else writes too, or a writer's output is changed on its way by
                more than a gain.
        """
        nothing = silent(self.found)
        mixing = self._looking_back(self._require_explained(nothing))
        for group in in_groups(self.found):
            mixing |= self._require_proved(group, nothing)
        return mixing

    def _require_explained(self, nothing: Mapping[Candidate, Tensor]) -> list[Observation]:
        """Run two passes with the writers silenced, which must leave the stream unchanged."""
        watched = {place for candidate in self.found for place in _places(candidate)}
        passes = [
            self.experiment.run(nothing, stream, watched=watched)
            for stream in self.experiment.streams
        ]
        for seen in passes:
            for layer in range(len(self.experiment.scales)):
                require_silence(self.experiment, layer, nothing, seen)
        return passes

    def _require_proved(
        self, group: Sequence[Candidate], nothing: Mapping[Candidate, Tensor]
    ) -> set[Candidate]:
        """Verify a second output like the first, and find the matrices that mix positions."""
        experiment, found = self.experiment, self.found
        enlarged = {candidate: found[candidate].size for candidate in group}
        replaced = {**nothing, **writing(group, experiment.other, enlarged)}
        seen = experiment.run(replaced)
        for candidate in group:
            if candidate in self.adopted:
                continue
            if candidate not in seen.used and not candidate.raw:
                raise unused(candidate, experiment.probe.architecture)
            update, after = experiment.update(seen, candidate.layer), seen.after[candidate.layer]
            if not on_ray(update, after, found[candidate].ray(experiment.other), experiment.dtype):
                raise ModelLoadError(
                    f"the output of {candidate.path} passes through a norm, a gate or another "
                    "state-dependent step before the residual stream, so projecting its weights "
                    f"would not remove the direction; {UNSUPPORTED}"
                )
        if not group[0].raw:
            return set()
        again = experiment.run(replaced, experiment.streams[1])
        return {c for c in group if self._differ(seen.after[c.layer][-1], again.after[c.layer][-1])}

    def _differ(self, one: Tensor, other: Tensor) -> bool:
        share = TOLERANCE.get(self.experiment.dtype, HALF_TOLERANCE)
        return bool((one - other).norm() > share * one.norm())

    @property
    def _share_of_others(self) -> float:
        """Return the minimum effect of other tokens on a state that depends on them.

        With quantized activations, all tokens of a pass share a scale, which affects how each is
        rounded.
        """
        quantized = any(
            is_quantized(candidate.module, candidate.parameter)
            for candidate in self.experiment.candidates
        )
        return 0.05 if quantized else 1e-6

    def _looking_back(self, passes: Sequence[Observation]) -> set[Candidate]:
        """Return maps whose input at the last position depends on the positions before it."""
        mixing = set()
        for candidate in self.found:
            places = [p for p in _places(candidate) if all(p in seen.inputs for seen in passes)]
            if places and not candidate.raw:
                one, other = (seen.inputs[places[0]][-1] for seen in passes)
                if (one - other).norm() > self._share_of_others * one.norm():
                    mixing.add(candidate)
        return mixing


def require_silence(
    experiment: Interventions,
    layer: int,
    nothing: Mapping[Candidate, Tensor],
    seen: Observation | None = None,
) -> None:
    """Require a layer to leave its stream unchanged when some of its candidates are silenced."""
    seen = seen or experiment.run(nothing)
    update = experiment.update(seen, layer)
    if not experiment.is_nothing(update, seen, layer):
        raise ModelLoadError(
            f"layer {layer} of {experiment.probe.architecture} still changes the residual stream "
            "with its linear stream writers silenced, through "
            f"{_other_writers(experiment, layer, nothing, update)}, so an edit would be partial; "
            f"{UNSUPPORTED}"
        )


def _other_writers(
    experiment: Interventions, layer: int, nothing: Mapping[Candidate, Tensor], update: Tensor
) -> str:
    """Return modules of a layer whose parameters, when replaced, change its stream update."""
    known = {candidate.module for candidate in nothing if not candidate.raw}
    paths = {module: name for name, module in experiment.probe.network.named_modules()}
    left: dict[str, float] = {}
    for module in experiment.probe.layers[layer].modules():
        # Quantized or offloaded parameters cannot be replaced to observe their effect.
        names = [n for n, p in module.named_parameters(recurse=False) if _is_plain(p)]
        if names and module not in known:
            gone = {
                Candidate(layer, name, name, module, name, True, -1): torch.zeros(1, 1)
                for name in names
            }
            changed = experiment.update(experiment.run({**nothing, **gone}), layer)
            left[paths[module]] = float(changed.norm() / update.norm())
    alone = [path for path, share in left.items() if share <= HALF_TOLERANCE]
    part = [path for path, share in left.items() if abs(share - 1) > HALF_TOLERANCE]
    named = alone or part or list(left) or [paths[experiment.probe.layers[layer]]]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f"{'' if alone else 'some of '}{', '.join(named[:NAMED])}{more}"


def _is_plain(parameter: Tensor) -> bool:
    return parameter.dtype in EDITABLE and not parameter.is_meta


def unused(candidate: Candidate, architecture: str) -> ModelLoadError:
    """Return the error for a candidate that was never active."""
    return ModelLoadError(
        f"{architecture} does not use {candidate.path} on every token, so whether it writes to the "
        f"residual stream cannot be determined; {UNSUPPORTED}"
    )


def _places(candidate: Candidate) -> list[Place]:
    """Return a candidate's module and its enclosing modules, from the inside out."""
    name = candidate.name.rpartition(".")[0] if candidate.raw else candidate.name
    parts = name.split(".")
    return [(candidate.layer, ".".join(parts[:n])) for n in range(len(parts), 0, -1)]

"""Search for stream writers among the candidates, by their effect on the stream."""

from collections.abc import Sequence

import torch
from torch import Tensor

from heretic.errors import ModelLoadError
from heretic.model.stream_writers.candidates import Candidate
from heretic.model.stream_writers.gains import on_ray, read_gain
from heretic.model.stream_writers.interventions import (
    UNSUPPORTED,
    Interventions,
    Proposal,
    in_groups,
    silent,
    writing,
)
from heretic.model.stream_writers.probe import Observation
from heretic.model.stream_writers.verify import require_silence, unused

# Matrix outputs are enlarged by at most the inverse; float16 ends at 65504.
SMALLEST, SMALLEST_IN_FLOAT16 = 1e-6, 1e-3


class Search:
    """Tests every candidate.

    Attributes:
        found: the writers, with their factors.
        adopted: writers that no token used, but that match another writer of their list.
    """

    def __init__(self, experiment: Interventions) -> None:
        self.experiment, self.candidates = experiment, experiment.candidates
        self.found: dict[Candidate, Proposal] = {}
        self.adopted: set[Candidate] = set()
        self._settled: set[Candidate] = set()

    def find(self) -> None:
        """Test maps, then matrices, then resolve candidates that no token used.

        Raises:
            ModelLoadError: a map's output is mixed on its way to the stream, or a candidate is
                used by no token and resembles none that is used.
        """
        self._try_maps()
        self._try_matrices()
        self._adopt_twins()

    def _try_maps(self) -> None:
        """Test maps with everything else silenced, so that only the map's output arrives."""
        nothing = silent(self.candidates)
        for group in in_groups(c for c in self.candidates if not c.raw):
            seen = self.experiment.run({**nothing, **writing(group, self.experiment.signs)})
            self._settled |= seen.used.intersection(group)
            for candidate in group:
                update = self.experiment.update(seen, candidate.layer)
                if self.experiment.is_nothing(update, seen, candidate.layer):
                    continue
                if not self._propose(candidate, update, seen):
                    require_silence(self.experiment, candidate.layer, nothing)
                    raise ModelLoadError(
                        f"{candidate.path} writes to the residual stream through a step that mixes "
                        "channels or positions, so projecting its weights would not remove the "
                        f"direction; {UNSUPPORTED}"
                    )

    def _try_matrices(self) -> None:
        """Test matrices until a round finds no more, since active later ones hide earlier ones."""
        left, progress = in_groups(c for c in self.candidates if c.raw), True
        while left and progress:
            known = len(self.found)
            for group in left:
                self._try_group(group)
            taken = {(c.module, c.parameter) for c in self.found}
            left = [[c for c in group if (c.module, c.parameter) not in taken] for group in left]
            left = [group for group in left if group]
            progress = len(self.found) > known

    def _try_group(self, group: Sequence[Candidate]) -> None:
        """Replace matrices with active inputs, and observe the resulting changes."""
        experiment = self.experiment
        others = [c for c in self.candidates if c.raw and c.bias != group[0].bias]
        # A bias is added regardless of an expert's input, which other matrices may produce.
        context = silent([*self.found, *(c for c in others if c.bias or group[0].bias)])
        base = experiment.run({**context, **silent(group)})
        seen = experiment.run({**context, **writing(group, experiment.signs)})
        self._settled |= seen.used.intersection(group)
        sizes = {c: self._enlargement(seen, base, c) for c in group}
        one = experiment.run({**context, **writing(group, experiment.signs, sizes)})
        other = experiment.run({**context, **writing(group, experiment.other, sizes)})
        for candidate in group:
            layer, size = candidate.layer, sizes[candidate]
            if self._propose(candidate, one.after[layer] - base.after[layer], one, size):
                update, ray = other.after[layer] - base.after[layer], self.found[candidate].ray
                if not on_ray(update, other.after[layer], ray(experiment.other), experiment.dtype):
                    del self.found[candidate]

    def _propose(
        self, candidate: Candidate, update: Tensor, seen: Observation, size: float = 1.0
    ) -> bool:
        """Return whether an update is that of an output of `signs`."""
        if not update.any():
            return False
        signs, dtype = self.experiment.signs.to(update), self.experiment.dtype
        layer = self.experiment.probe.layers[candidate.layer]
        proposal = Proposal(read_gain(update, signs, layer, dtype), size)
        if on_ray(update, seen.after[candidate.layer], proposal.ray(signs), dtype):
            self.found[candidate] = proposal
        return candidate in self.found

    def _adopt_twins(self) -> None:
        """Resolve candidates that no token used during the search."""
        for candidate in self.candidates:
            if candidate in self._settled or candidate in self.found:
                continue
            twins = [other for other in self._settled if candidate.is_twin_of(other)]
            if not twins:
                raise unused(candidate, self.experiment.probe.architecture)
            if twins[0] in self.found:
                self.found[candidate] = self.found[twins[0]]
                self.adopted.add(candidate)

    def _enlargement(self, seen: Observation, base: Observation, candidate: Candidate) -> float:
        """Return the factor with which an output arrives at about its own size or larger."""
        update = seen.after[candidate.layer] - base.after[candidate.layer]
        size = float(update.norm(dim=-1).max() / self.experiment.signs.norm())
        half = self.experiment.dtype == torch.float16
        return 1 / min(max(size, SMALLEST_IN_FLOAT16 if half else SMALLEST), 1)

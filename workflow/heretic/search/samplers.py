"""Samplers of trial parameters.

Each trial gets a new sampler that depends only on the finished trials, those in flight and the
trial's place among them. A sampler keeps no state between trials that an interruption could lose,
so a resumed search continues as if it had not been interrupted.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from torch.quasirandom import SobolEngine

Name = Literal["tpe", "nsga2", "gp", "random"]

COORDINATES = 32  # at least the number of a trial's parameters
PARENTS = 2  # per child
# Candidates from which `tpe` takes the best; Optuna's 24 cover this many dimensions poorly.
CANDIDATES = 128


@dataclass(frozen=True)
class Sampling:
    """Sampling configuration of a study.

    Attributes:
        seed: seed of the study.
        n_startup_trials: number of trials sampled without regard to others; size of a generation of
            `nsga2`.
        name: name of the sampler for the other trials.
        sobol_startup: whether the first trials are points of a Sobol sequence, which cover the
            space evenly, rather than random ones.
    """

    seed: int
    n_startup_trials: int
    name: Name = "tpe"
    sobol_startup: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Create from the settings."""
        return cls(
            seed=settings["seed"],
            n_startup_trials=settings["n_startup_trials"],
            name=settings["sampler"],
            sobol_startup=settings["sobol_startup"],
        )


def make_sampler(sampling: Sampling, place: int, *, parallel_trials: bool = False) -> BaseSampler:
    """Create the sampler of one trial.

    The seed depends on the trial's place: a resumed study continues instead of repeating its first
    trials, and a study interrupted while requesting a trial requests the same parameters again.

    Args:
        sampling: configuration of the study.
        place: number of trials before this one, finished or in flight.
        parallel_trials: whether `tpe` keeps away from running trials by treating them as bad;
            `gp` has its own method.
    """
    seed = zlib.crc32(f"{sampling.seed}:{place}".encode())
    first = sampling.n_startup_trials
    if sampling.sobol_startup and place < first:
        return SobolSample(sampling.seed, place)
    if sampling.name == "nsga2":
        return ResumableNSGAII(seed, max(PARENTS, first))
    if sampling.name == "gp":
        return GPSampler(seed=seed, n_startup_trials=first)
    if sampling.name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        seed=seed,
        n_startup_trials=first,
        n_ei_candidates=CANDIDATES,
        multivariate=True,
        constant_liar=parallel_trials,
    )


class ResumableNSGAII(NSGAIISampler):
    """NSGA-II with generations derived from the places of trials.

    Optuna's implementation stores each trial's generation and each generation's parents in the
    study as it runs. Both depend on the trials finished at that moment, so a search interrupted
    with several trials in flight would continue differently. Here the trials at the places g n to
    (g + 1) n - 1 form generation g, and its parents are selected from the finished trials of
    earlier generations. The numbers of the study's trials must be their places.
    """

    def __init__(self, seed: int, size: int) -> None:
        """Create a sampler with generations of `size` trials, at least two."""
        super().__init__(seed=seed, population_size=size)
        self._size = size
        self._parents: dict[int, list[FrozenTrial]] = {0: []}

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """Return the generation of a trial."""
        return trial.number // self._size

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the finished trials of a generation."""
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [t for t in finished if self.get_trial_generation(study, t) == generation]

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the best trials before a generation; none if there are fewer than two."""
        for each in range(len(self._parents), generation + 1):
            # Recurses into the parents of the previous generation.
            parents = self.select_parent(study, each)
            self._parents[each] = parents if len(parents) >= PARENTS else []
        return self._parents[generation]


class SobolSample(BaseSampler):
    """Sampler of one point of a scrambled Sobol sequence, with a coordinate per parameter.

    Optuna's own sampler counts its points in the storage and would restart in a resumed search.
    """

    def __init__(self, seed: int, place: int) -> None:
        """Create point number `place` of the seed's sequence."""
        engine = SobolEngine(COORDINATES, True, seed)  # type: ignore[no-untyped-call]
        self._point = iter(engine.draw(place + 1)[place].tolist())

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: each parameter is sampled independently."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: each parameter is sampled independently."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of the next coordinate.

        Raises:
            TypeError: the parameter is neither a real number nor a choice.
        """
        share = next(self._point)
        if isinstance(param_distribution, CategoricalDistribution):
            choices = param_distribution.choices
            return choices[min(int(share * len(choices)), len(choices) - 1)]
        if isinstance(param_distribution, FloatDistribution):
            low, high = param_distribution.low, param_distribution.high
            return low + share * (high - low)
        raise TypeError(f"{param_name} is neither a real number nor a choice")

"""Samplers of trial parameters.

Every sampler is made anew for each trial and knows nothing but the finished trials, those in flight
and the trial's place among them. So a search that was interrupted goes on as if it had not been:
nothing that a sampler would remember from one trial to the next is lost, for there is none.
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

COORDINATES = 32  # at least as many as a trial has parameters
PARENTS = 2  # of a child
# Of which `tpe` takes the most promising; Optuna's 24 leave much of so many dimensions out.
CANDIDATES = 128


@dataclass(frozen=True)
class Sampling:
    """Sampling configuration of a study.

    Attributes:
        seed: of the study.
        n_startup_trials: trials that are chosen without a look at others; the size of a generation
            of `nsga2`.
        name: which sampler chooses the others.
        quasi_random_start: whether the first trials are points of a Sobol sequence, which leave no
            part of the space out, rather than random ones.
    """

    seed: int
    n_startup_trials: int
    name: Name = "tpe"
    quasi_random_start: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Create from the settings."""
        return cls(
            seed=settings["seed"],
            n_startup_trials=settings["n_startup_trials"],
            name=settings["sampler"],
            quasi_random_start=settings["quasi_random_start"],
        )


def make_sampler(sampling: Sampling, place: int, *, several_in_flight: bool = False) -> BaseSampler:
    """Create the sampler of one trial.

    Its seed depends on the trial's place: a study that is resumed goes on where it was, rather
    than repeat its first trials, and one interrupted while it asks for a trial asks for the same
    parameters again.

    Args:
        sampling: of the study.
        place: how many trials come before it, finished or in flight.
        several_in_flight: whether `tpe` is to keep away from trials that are running, as if they
            were bad; `gp` does so in its own way.
    """
    seed = zlib.crc32(f"{sampling.seed}:{place}".encode())
    first = sampling.n_startup_trials
    if sampling.quasi_random_start and place < first:
        return SobolPoint(sampling.seed, place)
    if sampling.name == "nsga2":
        return Generations(seed, max(PARENTS, first))
    if sampling.name == "gp":
        return GPSampler(seed=seed, n_startup_trials=first)
    if sampling.name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        seed=seed,
        n_startup_trials=first,
        n_ei_candidates=CANDIDATES,
        multivariate=True,
        constant_liar=several_in_flight,
    )


class Generations(NSGAIISampler):
    """NSGA-II with generations derived from the places of trials.

    Optuna's own writes each trial's generation and each generation's parents into the study as it
    goes, which depends on what was finished at that moment: it would go on otherwise after a search
    was cut off among several trials in flight. Here the trials at the places g n to (g + 1) n - 1
    are generation g, and its parents are chosen from what is finished of those before it. The
    numbers of the study's trials must be their places.
    """

    def __init__(self, seed: int, size: int) -> None:
        """Use generations of `size` trials, at least two."""
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
            # Which asks for the parents of the generation before.
            parents = self.select_parent(study, each)
            self._parents[each] = parents if len(parents) >= PARENTS else []
        return self._parents[generation]


class SobolPoint(BaseSampler):
    """One point of a scrambled Sobol sequence, with a coordinate per requested parameter.

    Optuna's own counts its points in the storage, and would begin anew when a search is resumed.
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

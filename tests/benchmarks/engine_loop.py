"""Trials as the search runs them, without the sampler, which is timed by itself."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from optuna.samplers import RandomSampler

from benchmarks.trial_work import Measured, Score, Work, as_prompts, means
from heretic.ablation.directions import AblationDirections
from heretic.ablation.linalg import normalize
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import Edit
from heretic.engine.base import FeasibilityLimits, TrialEngine, TrialScores
from heretic.engine.choose import make_trial_engine
from heretic.model.loading import Model, load_model
from heretic.prompts.prompt import Prompt
from heretic.residuals import get_residual_means
from heretic.scoring import ScoredPrompts
from heretic.scoring.degenerate import is_off_script
from heretic.search.samplers import Sampling, make_sampler
from heretic.search.search_space import SearchSpace
from heretic.settings.schema import Settings
from heretic.timing import StageTimer

LONG_TEXT = "This is long enough for its language to be told from that of other texts, we hope."
FINISHED, ASKS, STARTUP_TRIALS = 200, 10, 15


@dataclass(frozen=True)
class EngineOptions:
    """The settings that decide how trials are run.

    Attributes:
        edit_mode, trial_batch_size, activation_cache_gb: as the settings.
    """

    edit_mode: str = "auto"
    trial_batch_size: str = "auto"
    activation_cache_gb: float = 8.0


def our_engine(
    model: Model, work: Work, directions: AblationDirections, options: EngineOptions
) -> TrialEngine:
    """The engine that a search with these settings has, of a model in its original state."""
    wanted = options.trial_batch_size
    return make_trial_engine(
        model,
        ScoredPrompts(as_prompts(work.texts.good), as_prompts(work.texts.bad)),
        max_response_length=work.tokens,
        edit_mode=options.edit_mode,
        norm_preservation="none",
        cache_weights="auto",
        cache_device="auto",
        activation_cache_gb=options.activation_cache_gb,
        trial_batch_size="auto" if wanted == "auto" else int(wanted),
        directions=directions,
    )


def load(work: Work) -> Model:
    """The model as a search loads it."""
    changes = {
        "model": str(work.folder),
        "device": str(work.device),
        "dtype": work.dtype_name,
        "max_batch_size": work.batch_size,
        "response_prefix": "",
    }
    return load_model(**{**Settings().model_dump(mode="json"), **changes})


def mean_directions(model: Model, work: Work) -> AblationDirections:
    """Unit differences of means, bad minus good."""
    good, bad = (
        get_residual_means(model, as_prompts(texts), "")
        for texts in (work.texts.good_sources, work.texts.bad_sources)
    )
    return AblationDirections.of(normalize(bad - good).float())


def draw_trials(space: SearchSpace, count: int, seed: int = 0) -> list[AblationParameters]:
    """Parameters as the first trials of a search draw them, at random."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=RandomSampler(seed=seed)
    )
    return [space.suggest(study.ask()) for _ in range(count)]


def run_ours(
    engine: TrialEngine,
    work: Work,
    trials: Sequence[Sequence[Edit]],
    n_warm_up: int,
    max_kl: float | None = None,
) -> Measured:
    """Time the trials, of which the first ones warm up; those within `max_kl` nats generate."""
    clock = StageTimer(work.device)
    # What tells languages is read once a study, at the first longer answer.
    is_off_script(Prompt(LONG_TEXT), LONG_TEXT)
    limits = FeasibilityLimits(max_kl)
    _score(engine, trials[:n_warm_up], limits, clock)
    rest = peak = None
    if work.device.type == "cuda":
        rest = torch.cuda.memory_allocated(work.device)
        torch.cuda.reset_peak_memory_stats(work.device)
    clock.read()
    found = _score(engine, trials[n_warm_up:], limits, clock)
    seconds = means([clock.read()], len(found))
    if work.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(work.device)
    scores = [
        Score(
            one["kl_first_token"] or 0.0, int(one["refusals"] or 0), int(one["false_refusals"] or 0)
        )
        for one in found
    ]
    answered = [one for one in found if one["refusals"] is not None]
    refused = sum(one["refusals"] for one in answered) / (
        max(1, len(answered)) * len(work.texts.bad)
    )
    way = "ours" if max_kl is None else f"ours, KL to {max_kl:g}"
    return Measured(way, seconds, scores, refused, rest, peak)


def _score(
    engine: TrialEngine,
    trials: Sequence[Sequence[Edit]],
    limits: FeasibilityLimits,
    clock: StageTimer,
) -> list[TrialScores]:
    step = engine.trial_batch_size
    return [
        score
        for start in range(0, len(trials), step)
        for score in engine.score(trials[start : start + step], limits, clock)
    ]


def sampler_seconds(space: SearchSpace) -> float:
    """How long a search that has finished 200 trials takes to ask for the parameters of one.

    The trials are made up: what they scored does not change the work.
    """
    study: Any = optuna.create_study(
        directions=["minimize", "minimize"], sampler=RandomSampler(seed=0)
    )
    for number in range(FINISHED):
        trial = study.ask()
        space.suggest(trial)
        trial.set_constraint("max_kl", (number % 7 - 4) / 7)
        study.tell(trial, (number * 37 % 101 / 101, number * 53 % 97))
    study.sampler = make_sampler(Sampling(0, STARTUP_TRIALS), FINISHED)
    space.suggest(study.ask())  # warms up
    started = time.perf_counter()
    for _ in range(ASKS):
        space.suggest(study.ask())
    return (time.perf_counter() - started) / ASKS

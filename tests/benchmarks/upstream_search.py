"""The search of upstream's Heretic 1.4.0, on our engine.

What trials may choose, who chooses it and what it is told are upstream's (`main.py`, `config.py`
and `evaluator.py` of the package `heretic-llm`); directions, edits and scores are ours, so that
nothing but the search differs. Positions are of layers, counted from 0 to L, the last one.
"""

from collections.abc import Iterator

import optuna
from optuna.samplers import TPESampler

from benchmarks.upstream_loop import VERSION
from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters, KernelParameters
from heretic.ablation.plan import plan_edits
from heretic.engine.base import FeasibilityLimits, TrialEngine, TrialScores
from heretic.metrics import KL, REFUSALS
from heretic.model.stream_writers.components import COMPONENTS
from heretic.timing import StageTimer

NAME = f"upstream {VERSION}"
# Bounds as shares of L, or strengths; a distance is one layer at least.
DIRECTION_INDEX, POSITION, MOST_DISTANCE = (0.4, 0.9), (0.6, 1.0), 0.6
WEIGHT = (0.8, 1.5)
STARTUP_TRIALS, CANDIDATES = 60, 128
# Below so many nats, what counts is the share that is refused.
KL_TARGET, KL_SCALE = 0.01, 1.0


def suggest(trial: optuna.Trial, n_layers: int) -> AblationParameters:
    """The edit of a trial.

    A kernel is our tent; the strength at its end is a share of that at its peak there, too.
    """
    last = n_layers - 1
    scope = trial.suggest_categorical("direction_scope", ["global", "per layer"])
    index = trial.suggest_float("direction_index", *(share * last for share in DIRECTION_INDEX))
    tents = {}
    for name in COMPONENTS:
        weight = trial.suggest_float(f"{name}.max_weight", *WEIGHT)
        position = trial.suggest_float(
            f"{name}.max_weight_position", *(share * last for share in POSITION)
        )
        min_share = trial.suggest_float(f"{name}.min_weight", 0.0, 1.0)
        distance = trial.suggest_float(
            f"{name}.min_weight_distance", 1.0, max(1.0, MOST_DISTANCE * last)
        )
        tents[name] = KernelParameters(position / last, weight, min_share, distance / last)
    # Layer l writes the state l + 1.
    if scope == "global":
        return AblationParameters("global", index + 1.0, tents)
    return AblationParameters("per_layer", None, tents)


def told(scores: TrialScores, refusals_before: int) -> tuple[float, float]:
    """The two objectives that the sampler is told."""
    assert scores[REFUSALS] is not None
    refused = scores[REFUSALS] / refusals_before
    near = scores[KL] < KL_TARGET
    return (refused * KL_TARGET if near else scores[KL]) / KL_SCALE, refused


def run_search(
    engine: TrialEngine, directions: AblationDirections, n_trials: int, seed: int
) -> Iterator[TrialScores]:
    """The scores of the trials of one search, one after the other."""
    clock, anatomy = StageTimer(engine.model.device), engine.model.anatomy
    before = engine.score([[]], FeasibilityLimits(), clock)[0][REFUSALS]
    assert before, "the original must refuse"
    sampler = TPESampler(
        n_startup_trials=STARTUP_TRIALS, n_ei_candidates=CANDIDATES, multivariate=True, seed=seed
    )
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for _ in range(n_trials):
        trial = study.ask()
        edits = plan_edits(suggest(trial, anatomy.n_layers), directions, anatomy)
        (scores,) = engine.score([edits], FeasibilityLimits(), clock)
        study.tell(trial, told(scores, before))
        yield scores
    engine.restore()

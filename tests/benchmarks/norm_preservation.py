"""Searches with each kind of norm preservation, on the demo model.

python tests/benchmarks/norm_preservation.py RUN [trials] [seeds]

RUN is the results folder of a run of the demo model, such as `results/demo`, which has its prompts
and directions; the model is taken from `demo-model` beside it. Each kind is searched with the same
seeds and as many trials, by the engine of the search. Printed are medians over the seeds, and their
range, of the hypervolume of the Pareto front (KL and unanswered prompts, each as a share of its
largest value; 1 is best), and the smallest KL at which at most 2% of the prompts are unanswered.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import optuna

from heretic.ablation.directions import AblationDirections
from heretic.ablation.projection import NormPreservation
from heretic.artifacts import read_tensors
from heretic.engine.base import FeasibilityLimits
from heretic.engine.choose import make_trial_engine
from heretic.model.devices import set_threads
from heretic.model.loading import load_model
from heretic.prompts.prompt_sets import read_prompts
from heretic.scoring import ScoredPrompts
from heretic.search.loop import TrialLoop
from heretic.search.pareto import Candidate, hypervolume, pareto_front
from heretic.search.records import candidates
from heretic.search.samplers import Sampling
from heretic.search.search_space import SearchSpace
from heretic.search.study_objectives import make_objectives
from heretic.settings.schema import Settings
from heretic.timing import StageTimer

FEW = 0.02


def search(run: Path, kind: NormPreservation, n_trials: int, seed: int) -> list[Candidate]:
    """The front of one search, with the settings of a run but for the norms."""
    settings = Settings()
    model = load_model(
        **{
            **settings.model_dump(mode="json"),
            "model": str(run.parent / "demo-model"),
            "device": "cpu",
        }
    )
    directions = AblationDirections.from_tensors(read_tensors(run / "directions.safetensors"))
    good, bad = (
        read_prompts(run / "prompts" / f"{kind_of}_evaluation_prompts.jsonl")
        for kind_of in ("good", "bad")
    )
    engine = make_trial_engine(
        model,
        ScoredPrompts(good, bad),
        max_response_length=settings.max_response_length,
        edit_mode=settings.edit_mode,
        norm_preservation=kind,
        cache_weights="auto",
        cache_device="auto",
        activation_cache_gb=settings.activation_cache_gb,
        trial_batch_size="auto",
        directions=directions,
    )
    told = {**settings.model_dump(), "seed": seed}
    original = engine.score([[]], FeasibilityLimits(), StageTimer())[0]
    objectives = make_objectives(
        engine.scorer_set, settings.objectives, engine.prompts, original, settings.max_kl
    )
    loop = TrialLoop(
        SearchSpace.from_settings(told, model.anatomy.n_layers),
        directions,
        engine,
        FeasibilityLimits(settings.max_kl),
        objectives,
        Sampling.from_settings(told),
        original=original,
    )
    records = loop.run(optuna.create_study(directions=["minimize", "minimize"]), n_trials)
    return pareto_front(candidates(records, objectives))


def line(name: str, values: Sequence[float]) -> str:
    """Median and range."""
    return f"{name} {statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def main(run: str, n_trials: str = "60", n_seeds: str = "5") -> None:
    """Print a line for each kind."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    set_threads(1)
    n_bad = len(read_prompts(Path(run) / "prompts" / "bad_evaluation_prompts.jsonl"))
    for kind in get_args(NormPreservation):
        volumes, divergences = [], []
        for seed in range(int(n_seeds)):
            front = search(Path(run), kind, int(n_trials), seed)
            volumes.append(hypervolume(front))
            near = [
                c.scores["kl_first_token"] for c in front if c.scores["unanswered"] <= FEW * n_bad
            ]
            divergences.append(min(near, default=float("inf")))
        sys.stdout.write(f"{kind:10} {line('hypervolume', volumes)}  {line('KL', divergences)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

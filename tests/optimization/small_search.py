"""A search on a tiny random model, for tests and for the processes that they kill.

python small_search.py DATABASE TRIALS [HANG_AT]   hangs while it scores trial number HANG_AT
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from tiny_models import PROMPTS, tiny_model

from heretic.ablation.directions import AblationDirections
from heretic.ablation.engines import make_editor
from heretic.ablation.projection import NormPreservation
from heretic.ablation.vectors import normalize
from heretic.evaluation.evaluator import Evaluator, TrialScores
from heretic.model.embeddings import with_embeddings
from heretic.optimization.records import TrialRecord
from heretic.optimization.search_space import SearchSpace
from heretic.optimization.study import open_study
from heretic.optimization.trials import TrialLoop

STUDY = "ablation-test"


class HangingEvaluator(Evaluator):
    """Says that it is in a trial, and stays there."""

    def __init__(self, *arguments: Any, hang_at: int | None) -> None:
        super().__init__(*arguments)
        self.hang_at, self.evaluated = hang_at, 0

    def evaluate(self, max_kl: float | None = None) -> TrialScores:
        """Score, or hang at the trial to hang at."""
        if self.evaluated == self.hang_at:
            print("hanging", flush=True)  # noqa: T201
            time.sleep(600)
        self.evaluated += 1
        return super().evaluate(max_kl)


def small_loop(
    *,
    seed: int = 0,
    max_kl: float = 0.5,
    overflowing: bool = False,
    hang_at: int | None = None,
    rows: tuple[int, ...] | None = None,
    engine: str = "auto",
    norm_preservation: NormPreservation = "none",
    embeddings: bool = False,
) -> TrialLoop:
    """Everything but the study; `overflowing` makes every edit end in values that are none."""
    torch.set_num_threads(1)
    model = with_embeddings(tiny_model()) if embeddings else tiny_model()
    layers, d_model = model.anatomy.n_layers, model.anatomy.d_model
    draw = torch.Generator().manual_seed(1)
    units = normalize(torch.randn(layers + 1, d_model, generator=draw))
    directions = AblationDirections.of(units * (1e30 if overflowing else 1.0))
    return TrialLoop(
        space=SearchSpace(layers, "per_layer" if overflowing else "both", 2.0, rows, embeddings),
        directions=directions,
        editor=make_editor(model, engine, norm_preservation, "true", directions=directions),
        evaluator=HangingEvaluator(model, PROMPTS[:2], PROMPTS[2:4], 3, hang_at=hang_at),
        max_kl=max_kl,
        seed=seed,
        n_startup_trials=3,
    )


def search(database: Path, n_trials: int, **options: Any) -> list[TrialRecord]:
    """Run the search up to `n_trials`."""
    with open_study(database, STUDY) as study:
        return small_loop(**options).run(study, n_trials)


if __name__ == "__main__":
    search(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        hang_at=int(sys.argv[3]) if len(sys.argv) > 3 else None,
    )

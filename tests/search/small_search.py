"""A search on a tiny random model, for tests and for the processes that they kill.

python small_search.py DATABASE TRIALS [HANG_AT [METHOD [IN_FLIGHT [SEED]]]]
hangs in call number HANG_AT of a method, `evaluate` unless another one is named
"""

import os
import sqlite3
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import optuna
import torch
from tiny_models import PROMPTS, tiny_model

from heretic.ablation.directions import AblationDirections
from heretic.ablation.editors import make_editor
from heretic.ablation.linalg import normalize
from heretic.ablation.projection import NormPreservation
from heretic.engine.base import FeasibilityLimits
from heretic.engine.evaluator import Evaluator
from heretic.engine.reference import ReferenceEngine
from heretic.model.embeddings import with_embeddings
from heretic.scoring import ScoredPrompts
from heretic.search.loop import TrialLoop
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord
from heretic.search.samplers import Name, Sampling
from heretic.search.search_space import Form, SearchSpace
from heretic.search.study import open_study

STUDY = "ablation-test"
OBJECTIVES: Final[dict[str, Literal["minimize", "maximize"]]] = {
    "kl_first_token": "minimize",
    "unanswered": "minimize",
}


OWNERS: Final = {
    "evaluate": Evaluator,
    "tell": optuna.Study,
}


@dataclass(frozen=True)
class SmallEngine(ReferenceEngine):
    """The plain way, given as many trials at once as one likes."""

    in_flight: int = 1

    @property
    def trial_batch_size(self) -> int:
        return self.in_flight


def objectives_of(max_kl: float, n_bad: int) -> list[Objective]:
    """The default objectives, of so many bad prompts."""
    return [
        Objective("kl_first_token", "minimize", 0.0, max_kl),
        Objective("unanswered", "minimize", 0.0, n_bad),
    ]


def hang(method: str, at: int) -> None:
    """Have a call of the method say that it is there, and stay there."""
    calls, original = count(), getattr(OWNERS[method], method)

    def hanging(*arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            print("hanging", flush=True)  # noqa: T201
            time.sleep(600)
        return original(*arguments, **options)

    setattr(OWNERS[method], method, hanging)


def cut_off_in_a_transaction(database: Path) -> None:
    """Leave a hot journal, as a process that is killed while it writes a transaction."""
    child = os.fork()
    if child == 0:
        connection = sqlite3.connect(database, isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(50):
            connection.execute(
                "INSERT INTO study_user_attributes (study_id, key, value_json) "
                "VALUES (1, hex(randomblob(20)), hex(zeroblob(9000)))"
            )
        os._exit(0)
    os.waitpid(child, 0)


def small_loop(
    *,
    seed: int = 0,
    max_kl: float = 0.5,
    overflowing: bool = False,
    in_flight: int = 1,
    rows: tuple[int, ...] | None = None,
    edit_mode: str = "auto",
    norm_preservation: NormPreservation = "none",
    embeddings: bool = False,
    form: Form = "range",
    sampler: Name = "tpe",
    sobol_startup: bool = False,
    patience: int = 0,
) -> TrialLoop:
    """Everything but the study; `overflowing` makes every edit end in values that are none."""
    torch.set_num_threads(1)
    model = with_embeddings(tiny_model()) if embeddings else tiny_model()
    layers, d_model = model.anatomy.n_layers, model.anatomy.d_model
    draw = torch.Generator().manual_seed(1)
    units = normalize(torch.randn(layers + 1, d_model, generator=draw))
    directions = AblationDirections.of(units * (1e30 if overflowing else 1.0))
    engine = SmallEngine(
        make_editor(model, edit_mode, norm_preservation, "true", directions=directions),
        Evaluator(model, ScoredPrompts(PROMPTS[:2], PROMPTS[2:4]), 3),
        in_flight,
    )
    return TrialLoop(
        space=SearchSpace(
            layers, "per_layer" if overflowing else "both", 2.0, rows, embeddings, form
        ),
        directions=directions,
        engine=engine,
        limits=FeasibilityLimits(max_kl),
        objectives=objectives_of(max_kl, 2),
        sampling=Sampling(seed, 3, sampler, sobol_startup),
        patience=patience,
    )


def engine_of(loop: TrialLoop) -> SmallEngine:
    """The engine of a small loop, with its editor and its evaluator."""
    assert isinstance(loop.engine, SmallEngine)
    return loop.engine


def search(database: Path, n_trials: int, **options: Any) -> list[TrialRecord]:
    """Run the search up to `n_trials`."""
    with open_study(database, STUDY, OBJECTIVES) as study:
        return small_loop(**options).run(study, n_trials)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    if 3 in given:
        hang(given.get(4, "evaluate"), int(given[3]))
    search(Path(given[1]), int(given[2]), in_flight=int(given.get(5, 1)), seed=int(given.get(6, 0)))

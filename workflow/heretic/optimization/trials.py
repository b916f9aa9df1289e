"""The trial loop: sample, edit, score, report, until the budget of finished trials is met."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from heretic.ablation.directions import AblationDirections
from heretic.ablation.engines import Editor
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import plan_edits
from heretic.console import ProgressLine
from heretic.evaluation.evaluator import Evaluator, TrialScores
from heretic.optimization.pareto import pareto_front
from heretic.optimization.records import TrialRecord, candidates
from heretic.optimization.search_space import SearchSpace
from heretic.optimization.study import finished_trials, make_sampler

RECORD, WANTED = "record", "n_trials"
# Optuna stores no infinity; weights that overflow score worse than any real trial.
WORST_KL = 1e6


@dataclass(frozen=True)
class TrialLoop:
    """What every trial of a study needs.

    Attributes:
        space: what trials may try.
        directions: of every state of the model's stream.
        editor: of a model in its original state.
        evaluator: of the same model.
        max_kl: nats above which a trial is infeasible.
        seed, n_startup_trials: of the sampler.
    """

    space: SearchSpace
    directions: AblationDirections
    editor: Editor
    evaluator: Evaluator
    max_kl: float
    seed: int
    n_startup_trials: int

    def run(self, study: optuna.Study, n_trials: int) -> list[TrialRecord]:
        """Run trials until `n_trials` are finished; return the first `n_trials` of the study.

        Whatever happens, the model is the original again afterwards.
        """
        done = len(finished_trials(study))
        study.set_user_attr(WANTED, n_trials)
        try:
            with ProgressLine("Trials", n_trials, done=min(done, n_trials)) as progress:
                for finished in range(done, n_trials):
                    study.sampler = make_sampler(self.seed, finished, self.n_startup_trials)
                    number, scores = self._run_one(study)
                    best = _best(read_records(study, n_trials))
                    progress.advance(note=f"Trial {number}: {_found(scores)}{best}")
        finally:
            self.editor.restore()
        return read_records(study, n_trials)

    def _run_one(self, study: optuna.Study) -> tuple[int, TrialScores]:
        started = time.monotonic()
        trial = study.ask()
        parameters = self.space.suggest(trial)
        anatomy = self.editor.model.anatomy
        self.editor.abliterate(plan_edits(parameters, self.directions, anatomy))
        scores = self.evaluator.evaluate(self.max_kl)
        overflowed = not math.isfinite(scores.kl_first_token)
        kl = WORST_KL if overflowed else scores.kl_first_token
        trial.set_constraint("max_kl", WORST_KL if overflowed else kl - self.max_kl)
        record = {
            "parameters": parameters.to_dict(),
            "scores": {**scores.to_dict(), "kl_first_token": kl},
            "seconds": time.monotonic() - started,
        }
        trial.set_user_attr(RECORD, record)
        worst = len(self.evaluator.bad_prompts)
        study.tell(trial, (kl, worst if scores.unanswered is None else scores.unanswered))
        return trial.number, scores


def read_records(study: optuna.Study, n_trials: int) -> list[TrialRecord]:
    """The first `n_trials` finished trials of a study."""
    return [_record(trial) for trial in finished_trials(study)[:n_trials]]


def _record(trial: FrozenTrial) -> TrialRecord:
    stored = trial.user_attrs[RECORD]
    return TrialRecord(
        number=trial.number,
        parameters=AblationParameters.from_dict(stored["parameters"]),
        sampled=trial.params,
        scores=stored["scores"],
        feasible=all(value <= 0 for value in trial.constraints.values()),
        seconds=stored["seconds"],
    )


def _found(scores: TrialScores) -> str:
    unanswered = "infeasible" if scores.unanswered is None else f"unanswered {scores.unanswered}"
    return f"KL {scores.kl_first_token:.4f}, {unanswered}"


def _best(records: Sequence[TrialRecord]) -> str:
    """The trial that leaves fewest prompts unanswered."""
    front = pareto_front(candidates(records))
    if not front:
        return ""
    best = front[-1]
    return (
        f"; best so far trial {best.number}: KL {best.kl_first_token:.4f}, "
        f"unanswered {best.unanswered}"
    )

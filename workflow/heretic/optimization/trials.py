"""The trial loop: sample, edit, score, report, until the budget of finished trials is met."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import plan_edits
from heretic.console import ProgressLine
from heretic.evaluation.trial_engine import TrialEngine
from heretic.evaluation.trial_scores import TrialScores
from heretic.optimization.pareto import Candidate, fewest_unanswered
from heretic.optimization.pending import mark_asked
from heretic.optimization.records import TrialRecord, candidates
from heretic.optimization.search_space import SearchSpace
from heretic.optimization.study import finished_trials, make_sampler
from heretic.stages import StageClock

RECORD, WANTED = "record", "n_trials"
# Optuna stores no infinity; weights that overflow score worse than any real trial.
WORST_KL = 1e6


@dataclass(frozen=True)
class TrialLoop:
    """What every trial of a study needs.

    Attributes:
        space: what trials may try.
        directions: of every state of the model's stream.
        engine: of a model in its original state.
        max_kl: nats above which a trial is infeasible.
        seed, n_startup_trials: of the sampler.
    """

    space: SearchSpace
    directions: AblationDirections
    engine: TrialEngine
    max_kl: float
    seed: int
    n_startup_trials: int

    def run(self, study: optuna.Study, n_trials: int) -> list[TrialRecord]:
        """Run trials until `n_trials` are finished; return the first `n_trials` of the study.

        The engine's K trials in flight are those at the places g·K to (g+1)·K - 1 of the study,
        so that a search which was cut off first completes what it was at. Whatever happens, the
        model is the original again afterwards.
        """
        done = len(finished_trials(study))
        best = fewest_unanswered(candidates(read_records(study, n_trials)))
        study.set_user_attr(WANTED, n_trials)
        clock = StageClock(self.engine.model.device)
        try:
            with ProgressLine("Trials", n_trials, done=min(done, n_trials)) as progress:
                while done < n_trials:
                    together = self.engine.trials_in_flight
                    end = min((done // together + 1) * together, n_trials)
                    for record in self._run_together(study, range(done, end), clock):
                        best = fewest_unanswered([*([best] if best else []), *candidates([record])])
                        progress.advance(note=f"{_found(record)}{_best_so_far(best)}")
                    done = end
        finally:
            self.engine.restore()
        return read_records(study, n_trials)

    def _run_together(
        self, study: optuna.Study, places: range, clock: StageClock
    ) -> Iterator[TrialRecord]:
        """Ask for the trials at these places and score them in one go; tell one after the other.

        The seconds that telling takes count as overhead of the trials after.
        """
        with clock.stage("sampler"):
            asked = [self._ask(study, place) for place in places]
        anatomy = self.engine.model.anatomy
        edits = [plan_edits(parameters, self.directions, anatomy) for _, parameters in asked]
        scores = self.engine.score(edits, self.max_kl, clock)
        stages = {name: seconds / len(places) for name, seconds in clock.read().items()}
        for (trial, parameters), found in zip(asked, scores, strict=True):
            yield self._tell(study, trial, parameters, found, stages)

    def _ask(
        self, study: optuna.Study, place: int
    ) -> tuple[optuna.trial.Trial, AblationParameters]:
        """A queued trial if there is one, else what the sampler chooses for this place."""
        study.sampler = make_sampler(
            self.seed,
            place,
            self.n_startup_trials,
            several_in_flight=self.engine.trials_in_flight > 1,
        )
        trial = study.ask()
        parameters = self.space.suggest(trial)
        mark_asked(trial, place)
        return trial, parameters

    def _tell(
        self,
        study: optuna.Study,
        trial: optuna.trial.Trial,
        parameters: AblationParameters,
        scores: TrialScores,
        stages: Mapping[str, float],
    ) -> TrialRecord:
        overflowed = not math.isfinite(scores.kl_first_token)
        kl = WORST_KL if overflowed else scores.kl_first_token
        excess = WORST_KL if overflowed else kl - self.max_kl
        trial.set_constraint("max_kl", excess)
        record = TrialRecord(
            number=trial.number,
            parameters=parameters,
            sampled=trial.params,
            scores={**scores.to_dict(), "kl_first_token": kl},
            feasible=excess <= 0,
            seconds=sum(stages.values()),
            stages=stages,
        )
        stored = record.to_dict()
        kept = ("parameters", "scores", "seconds", "stages")
        trial.set_user_attr(RECORD, {name: stored[name] for name in kept})
        worst = self.engine.n_bad
        study.tell(trial, (kl, worst if scores.unanswered is None else scores.unanswered))
        return record


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
        stages=stored.get("stages", {}),
    )


def _found(record: TrialRecord) -> str:
    kl, unanswered = record.scores["kl_first_token"], record.scores["unanswered"]
    answers = "infeasible" if unanswered is None else f"unanswered {unanswered}"
    return f"Trial {record.number}: KL {kl:.4f}, {answers}"


def _best_so_far(best: Candidate | None) -> str:
    if best is None:
        return ""
    return (
        f"; best so far trial {best.number}: KL {best.kl_first_token:.4f}, "
        f"unanswered {best.unanswered}"
    )

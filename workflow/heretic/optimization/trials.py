"""The trial loop: sample, edit, score, report, until the budget of finished trials is met."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import plan_edits
from heretic.console import ProgressLine, log
from heretic.evaluation.trial_engine import TrialEngine
from heretic.evaluation.trial_scores import TrialScores
from heretic.optimization.in_flight import StudyInMemory
from heretic.optimization.pareto import Scales, fewest_unanswered
from heretic.optimization.patience import Patience
from heretic.optimization.records import TrialRecord, candidates
from heretic.optimization.samplers import Sampling, make_sampler
from heretic.optimization.search_space import SearchSpace
from heretic.optimization.study import finished_trials
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
        sampling: who chooses the trials.
        patience: finished trials without a gain after which a search ends early; 0 for never.
        warm_starts: parameters of the trials that are tried before the sampler chooses any.
        unanswered_before: bad prompts that the original leaves unanswered; all when None.
    """

    space: SearchSpace
    directions: AblationDirections
    engine: TrialEngine
    max_kl: float
    sampling: Sampling
    patience: int = 0
    warm_starts: Sequence[Mapping[str, Any]] = ()
    unanswered_before: int | None = None

    def run(self, study: optuna.Study, n_trials: int) -> list[TrialRecord]:
        """Run trials until `n_trials` are finished, or patience ends; return them.

        They are the first `n_trials` of the study, or those up to where patience ended: of trials
        in flight together it may have ended before the last, and those after it stay in the study.

        The engine's K trials in flight are those at the places g·K to (g+1)·K - 1 of the study,
        so that a search which was cut off first completes what it was at. Whatever happens, the
        model is the original again afterwards.
        """
        done = len(finished_trials(study))
        memory = StudyInMemory(study)
        records = read_records(study, n_trials)
        ended = self._end(records)
        study.set_user_attr(WANTED, n_trials if ended is None else len(records))
        clock = StageClock(self.engine.model.device)
        try:
            with ProgressLine("Trials", n_trials, done=min(done, n_trials)) as progress:
                while done < n_trials and ended is None:
                    together = self.engine.trials_in_flight
                    end = min((done // together + 1) * together, n_trials)
                    for record in self._run_together(memory, range(done, end), clock):
                        records.append(record)
                        progress.advance(note=f"{_found(record)}{_best_so_far(records)}")
                    done, ended = end, self._end(records)
        finally:
            self.engine.restore()
        if ended is not None and ended < n_trials:
            log.info(
                "The search ends: the last %d of %d trials gained nothing", self.patience, ended
            )
            study.set_user_attr(WANTED, len(records))
        return read_records(study, n_trials if ended is None else ended)

    def _end(self, records: Sequence[TrialRecord]) -> int | None:
        """How many of these trials the search has, if it has ended early."""
        scales = Scales(self.max_kl, self.engine.n_bad)
        return Patience(self.patience, self.sampling.n_startup_trials, scales).end(records)

    def _run_together(
        self, memory: StudyInMemory, places: range, clock: StageClock
    ) -> Iterator[TrialRecord]:
        """Ask for the trials at these places and score them in one go; store one after the other.

        The seconds that storing takes count as overhead of the trials after.
        """
        with clock.stage("sampler"):
            asked = [self._ask(memory, place) for place in places]
            memory.keep([trial for trial, _ in asked])
        anatomy = self.engine.model.anatomy
        edits = [plan_edits(parameters, self.directions, anatomy) for _, parameters in asked]
        scores = self.engine.score(edits, self.max_kl, clock)
        stages = {name: seconds / len(places) for name, seconds in clock.read().items()}
        for (trial, parameters), found in zip(asked, scores, strict=True):
            yield self._store(memory, trial, parameters, found, stages)

    def _ask(
        self, memory: StudyInMemory, place: int
    ) -> tuple[optuna.trial.Trial, AblationParameters]:
        """The trial at this place, and the edit that its parameters stand for."""
        several = self.engine.trials_in_flight > 1
        sampler = make_sampler(self.sampling, place, several_in_flight=several)
        trial = memory.ask(sampler, self.warm_starts)
        return trial, self.space.suggest(trial)

    def _store(
        self,
        memory: StudyInMemory,
        trial: optuna.trial.Trial,
        parameters: AblationParameters,
        scores: TrialScores,
        stages: Mapping[str, float],
    ) -> TrialRecord:
        overflowed = not math.isfinite(scores.kl_first_token)
        kl = WORST_KL if overflowed else scores.kl_first_token
        excess = WORST_KL if overflowed else kl - self.max_kl
        # An edit that answers nothing more is told to be as far from feasible as it is from the
        # largest KL. Else the smallest of edits, which nothing else dominates, would make up the
        # front, and a sampler that learns from the front would try ever smaller ones.
        trial.set_constraint("max_kl", -excess if self._gains_nothing(scores) else excess)
        found = {**scores.to_dict(), "kl_first_token": kl}
        seconds = sum(stages.values())
        stored = {
            "parameters": parameters.to_dict(),
            "feasible": excess <= 0,
            "scores": found,
            "seconds": seconds,
            "stages": stages,
        }
        trial.set_user_attr(RECORD, stored)
        unanswered = self.engine.n_bad if scores.unanswered is None else scores.unanswered
        number = memory.store(trial, (kl, unanswered))
        return TrialRecord(number, parameters, trial.params, found, excess <= 0, seconds, stages)

    def _gains_nothing(self, scores: TrialScores) -> bool:
        before = self.engine.n_bad if self.unanswered_before is None else self.unanswered_before
        return scores.unanswered is not None and scores.unanswered >= before


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
        # Earlier versions told samplers no more than that.
        feasible=stored.get("feasible", all(value <= 0 for value in trial.constraints.values())),
        seconds=stored["seconds"],
        stages=stored.get("stages", {}),
    )


def _found(record: TrialRecord) -> str:
    kl, unanswered = record.scores["kl_first_token"], record.scores["unanswered"]
    answers = "infeasible" if unanswered is None else f"unanswered {unanswered}"
    return f"Trial {record.number}: KL {kl:.4f}, {answers}"


def _best_so_far(records: Sequence[TrialRecord]) -> str:
    best = fewest_unanswered(candidates(records))
    if best is None:
        return ""
    return (
        f"; best so far trial {best.number}: KL {best.kl_first_token:.4f}, "
        f"unanswered {best.unanswered}"
    )

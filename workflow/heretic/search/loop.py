"""Trial loop: sample, edit, score and report until the budget of finished trials is spent."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import plan_edits
from heretic.console import ProgressLine, log
from heretic.engine.base import FeasibilityLimits, TrialEngine, TrialScores
from heretic.metrics import KL
from heretic.search.computation import BATCH_SIZE, warn_of_changes
from heretic.search.early_stopping import EarlyStopping
from heretic.search.objectives import Objective
from heretic.search.pareto import nearest
from heretic.search.pending import BufferedStudy
from heretic.search.records import TrialRecord, candidates
from heretic.search.samplers import Sampling, make_sampler
from heretic.search.search_space import SearchSpace
from heretic.search.study import (
    OBJECTIVES,
    RECORD,
    WANTED,
    finished_trials,
    read_records,
)
from heretic.timing import StageTimer

# Optuna cannot store infinity; overflowing weights score worse than any real trial.
WORST_KL = 1e6
LABELS = {KL: "KL"}
# Name of the constraint that samplers learn from.
LIMITS = "limits"


@dataclass(frozen=True)
class TrialLoop:
    """Loop over the trials of a study.

    Attributes:
        space: search space.
        directions: directions of every state of the residual stream.
        engine: engine of a model in its original state.
        limits: limits beyond which a trial is infeasible.
        objectives: objectives for the sampler, in order.
        sampling: configuration of the sampler.
        patience: number of finished trials without a gain after which the search ends early; 0 for
            never.
        warm_starts: parameters of the trials to try before the sampler chooses any.
        original: scores of the original model, to identify trials without a gain; None to skip
            this.
        computation: method of computing scores, from `describe`; stored with each trial.
    """

    space: SearchSpace
    directions: AblationDirections
    engine: TrialEngine
    limits: FeasibilityLimits
    objectives: Sequence[Objective]
    sampling: Sampling
    patience: int = 0
    warm_starts: Sequence[Mapping[str, Any]] = ()
    original: TrialScores | None = None
    computation: Mapping[str, Any] = field(default_factory=dict)

    def run(self, study: optuna.Study, n_trials: int) -> list[TrialRecord]:
        """Run trials until `n_trials` are finished or patience ends the search; return them.

        The returned trials are the first `n_trials` of the study, or those up to the one at which
        patience ended. With several trials in flight, some may finish after that one; they remain
        in the study.

        The engine's K trials in flight are those at the places g·K to (g+1)·K - 1 of the study, so
        an interrupted search first completes its unfinished group. The model is always restored to
        the original afterwards.
        """
        done = len(finished_trials(study))
        memory = BufferedStudy(study)
        records = read_records(study, n_trials)
        ended = self._end(records)
        if done < n_trials and ended is None:
            warn_of_changes([record.computation for record in records], self.computation)
        study.set_user_attr(WANTED, n_trials if ended is None else len(records))
        if OBJECTIVES not in study.user_attrs:
            study.set_user_attr(OBJECTIVES, [each.to_dict() for each in self.objectives])
        clock = StageTimer(self.engine.model.device)
        try:
            with ProgressLine("Trials", n_trials, done=min(done, n_trials)) as progress:
                while done < n_trials and ended is None:
                    together = self.engine.trial_batch_size
                    end = min((done // together + 1) * together, n_trials)
                    for record in self._run_together(memory, range(done, end), clock):
                        records.append(record)
                        progress.advance(note=f"{self._found(record)}{self._best_so_far(records)}")
                    done, ended = end, self._end(records)
        finally:
            self.engine.restore()
        if ended is not None and ended < n_trials:
            log.info(
                "Early stopping: no improvement in the last %d of %d trials", self.patience, ended
            )
            study.set_user_attr(WANTED, len(records))
        return read_records(study, n_trials if ended is None else ended)

    def _end(self, records: Sequence[TrialRecord]) -> int | None:
        """Return the number of trials at which the search ended early; None if it did not."""
        startup = self.sampling.n_startup_trials
        return EarlyStopping(self.patience, startup, self.objectives).end(records)

    def _run_together(
        self, memory: BufferedStudy, places: range, clock: StageTimer
    ) -> Iterator[TrialRecord]:
        """Request the trials at these places, score them in one batch, and store them one by one.

        The time for storing counts as overhead of the next trials.
        """
        with clock.stage("sampler"):
            asked = [self._ask(memory, place) for place in places]
            memory.keep([trial for trial, _ in asked])
        anatomy = self.engine.model.anatomy
        edits = [plan_edits(parameters, self.directions, anatomy) for _, parameters in asked]
        scores = self.engine.score(edits, self.limits, clock)
        stages = {name: seconds / len(places) for name, seconds in clock.read().items()}
        for (trial, parameters), found in zip(asked, scores, strict=True):
            yield self._store(memory, trial, parameters, found, stages)

    def _ask(
        self, memory: BufferedStudy, place: int
    ) -> tuple[optuna.trial.Trial, AblationParameters]:
        """Return the trial at this place and its edit."""
        several = self.engine.trial_batch_size > 1
        sampler = make_sampler(self.sampling, place, parallel_trials=several)
        trial = memory.ask(sampler, self.warm_starts)
        return trial, self.space.suggest(trial)

    def _store(
        self,
        memory: BufferedStudy,
        trial: optuna.trial.Trial,
        parameters: AblationParameters,
        scores: TrialScores,
        stages: Mapping[str, float],
    ) -> TrialRecord:
        kl = scores[KL]
        found = {**scores, KL: kl if math.isfinite(kl) else WORST_KL}
        excess = self._excess(scores)
        because = self.limits.exceeded(scores)
        trial.set_constraint(LIMITS, self._told_excess(scores, excess))
        feasible = all(value <= 0 for value in excess.values())
        seconds = sum(stages.values())
        # Halved after running out of memory.
        batch_size = self.engine.model.batch_size.current
        computation = {**self.computation, BATCH_SIZE: batch_size}
        stored = {
            "parameters": parameters.to_dict(),
            "feasible": feasible,
            "infeasible_because": because,
            "scores": found,
            "seconds": seconds,
            "stages": stages,
            "computation": computation,
        }
        trial.set_user_attr(RECORD, stored)
        number = memory.store(trial, [objective.value(found) for objective in self.objectives])
        return TrialRecord(
            number=number,
            parameters=parameters,
            sampled=trial.params,
            scores=found,
            feasible=feasible,
            infeasible_because=because,
            seconds=seconds,
            stages=stages,
            computation=computation,
        )

    def _excess(self, scores: TrialScores) -> dict[str, float]:
        """Return a trial's excess over each limit."""
        found = self.limits.excess(scores)
        return {name: by if math.isfinite(by) else WORST_KL for name, by in found.items()}

    def _told_excess(self, scores: TrialScores, excess: Mapping[str, float]) -> float:
        """Return the constraint violation for samplers; at most 0 if the trial is feasible.

        A trial without a gain counts as far from feasible as it is from the largest KL. Otherwise
        the smallest edits, which are not dominated, would make up the front, and a sampler that
        learns from the front would try ever smaller ones.
        """
        over = sum(by for by in excess.values() if by > 0)
        if over > 0:
            return over
        nearest_limit = max(excess.values())
        return nearest_limit if self._gains(scores) else -nearest_limit

    def _gains(self, scores: TrialScores) -> bool:
        """Return whether a trial improves on the original in any score that leaves room for it."""
        if self.original is None:
            return True
        before = [(o, o.share(o.value(self.original))) for o in self.objectives]
        return any(o.share(o.value(scores)) < share for o, share in before if share > 0)

    def _found(self, record: TrialRecord) -> str:
        """Format a trial's scores for the log."""
        told = _told(record.scores, self.objectives)
        return f"Trial {record.number}: {told}{_infeasible(record)}"

    def _best_so_far(self, records: Sequence[TrialRecord]) -> str:
        best = nearest(candidates(records, self.objectives))
        if best is None:
            return ""
        return f"; best so far trial {best.number}: {_told(best.scores, self.objectives)}"


def _told(scores: Mapping[str, Any], objectives: Sequence[Objective]) -> str:
    """Format the known objectives for the log."""
    known = [(o.name, scores[o.name]) for o in objectives if scores[o.name] is not None]
    return ", ".join(
        f"{LABELS.get(name, name)} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in known
    )


def _infeasible(record: TrialRecord) -> str:
    return "" if record.feasible else f", infeasible ({record.infeasible_because})"

"""Finalists: the best trials by a rule, re-scored before one of them is selected.

A search may score an edit through replaced matrix outputs or with its own batches and kernels, each
of which rounds differently in half precision. The weights as they are saved therefore decide: a few
finalists are scored again with them, the new scores replace the old ones among all trials, and the
selection rule is applied again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from heretic.artifact_types import FinalistFacts, FinalistsFile
from heretic.errors import StudyError
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord, choose


@dataclass(frozen=True)
class SelectionRule:
    """Rule for selecting a trial; attributes match the arguments of `choose`."""

    rule: str
    max_kl: float
    objectives: Sequence[Objective]

    def ranking(self, records: Sequence[TrialRecord]) -> Iterator[tuple[TrialRecord, str]]:
        """Yield the trial that the rule selects, then its selection without that trial, and so on.

        Raises:
            StudyError: the rule selects no trial; raised on the first iteration.
        """
        left = list(records)
        chosen, reason = choose(left, self.rule, self.max_kl, self.objectives)
        while True:
            yield chosen, reason
            left = [record for record in left if record.number != chosen.number]
            try:
                chosen, reason = choose(left, self.rule, self.max_kl, self.objectives)
            except StudyError:
                return


@dataclass(frozen=True)
class Finalist:
    """A trial with its scores before and after re-scoring.

    Attributes:
        trial: number of the trial.
        scores: scores by name, on the weights as they are saved; the search's scores if it was not
            re-scored.
        search_scores: scores by name from the search.
        feasible: whether the saved weights predict finite numbers.
    """

    trial: int
    scores: Mapping[str, Any]
    search_scores: Mapping[str, Any]
    feasible: bool = True

    @classmethod
    def of(cls, record: TrialRecord) -> Self:
        """Create a finalist from a trial that is not re-scored."""
        return cls(record.number, record.scores, record.scores)


@dataclass(frozen=True)
class Finalists:
    """Finalists, best of the search first, and whether they were re-scored."""

    finalists: tuple[Finalist, ...]
    rescored: bool

    def file(self, provenance: dict[str, Any]) -> FinalistsFile:
        """Return the contents of `finalists.json`."""
        found = [
            FinalistFacts(
                trial=each.trial,
                scores=dict(each.scores),
                search_scores=dict(each.search_scores),
                feasible=each.feasible,
            )
            for each in self.finalists
        ]
        return FinalistsFile(finalists=found, rescored=self.rescored, provenance=provenance)

    @classmethod
    def of(cls, file: FinalistsFile) -> Self:
        """Return the finalists of `finalists.json`."""
        return cls(tuple(Finalist(**finalist) for finalist in file.finalists), file.rescored)


def score_finalists(
    records: Sequence[TrialRecord],
    choice: SelectionRule,
    n_finalists: int,
    score: Callable[[TrialRecord], Finalist],
) -> list[Finalist]:
    """Re-score the `n_finalists` best trials, and further ones until one can be selected.

    Args:
        records: trials of the search.
        choice: selection rule.
        n_finalists: number of finalists, at least 1; fewer are returned if the rule selects fewer.
        score: function that re-scores a trial.

    Raises:
        StudyError: the rule selects no trial.
    """
    found: list[Finalist] = []
    for record, _ in choice.ranking(records):
        if len(found) >= n_finalists and _takes_one(records, found, choice):
            break
        found.append(score(record))
    return found


def choose_finalist(
    records: Sequence[TrialRecord], finals: Finalists, choice: SelectionRule
) -> tuple[TrialRecord, Finalist, str]:
    """Return the first finalist in the rule's ranking of all trials, and the reason.

    The other trials keep their scores: they may include the ends of the front that determine a
    knee.

    Returns:
        The trial's record from the search, the finalist with its new scores, and the reason.

    Raises:
        StudyError: the rule selects no finalist with its new scores.
    """
    by_number = {finalist.trial: finalist for finalist in finals.finalists}
    known = {record.number: record for record in records}
    scored = [_scored_again(record, by_number.get(record.number)) for record in records]
    for record, reason in choice.ranking(scored):
        if record.number in by_number:
            told = reason + _what_it_changed(record.number, finals)
            return known[record.number], by_number[record.number], told
    raise StudyError(
        f"{choice.rule} selects none of the {len(by_number)} finalists by the scores of the "
        "exported weights; raise n_trials, or set n_finalists=1"
    )


def _scored_again(record: TrialRecord, finalist: Finalist | None) -> TrialRecord:
    if finalist is None:
        return record
    return replace(record, scores=finalist.scores, feasible=finalist.feasible)


def _what_it_changed(chosen: int, finals: Finalists) -> str:
    if not finals.rescored:
        return ""
    first, count = finals.finalists[0].trial, len(finals.finalists)
    several = f"{count} finalists were" if count > 1 else "it was"
    instead = "" if chosen == first else f", which puts it before trial {first}"
    return f"; {several} re-scored on the exported weights{instead}"


def _takes_one(
    records: Sequence[TrialRecord], finalists: Sequence[Finalist], choice: SelectionRule
) -> bool:
    try:
        choose_finalist(records, Finalists(tuple(finalists), rescored=True), choice)
    except StudyError:
        return False
    return True

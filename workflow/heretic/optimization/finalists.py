"""Finalists: the best trials by a rule, re-scored before one of them is selected.

A search may score an edit by what matrices put out, or with batches and kernels of its own, and
half precision rounds each of these ways otherwise. So the last word is left to the weights as they
are saved: a few finalists are scored again with them, their new scores take the place of the old
ones among all trials, and the rule is asked again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from heretic.errors import StudyError
from heretic.optimization.objectives import Objective
from heretic.optimization.records import TrialRecord, choose


@dataclass(frozen=True)
class Choice:
    """Selection rule of a trial; attributes as the arguments of `choose`."""

    rule: str
    max_kl: float
    objectives: Sequence[Objective]

    def ranking(self, records: Sequence[TrialRecord]) -> Iterator[tuple[TrialRecord, str]]:
        """Yield the trial selected by the rule, then the one it would select without it, and so on.

        Raises:
            StudyError: it takes none at all, when the first is asked for.
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
        trial: its number.
        scores: by name, on the weights as they are saved; the search's where it was not scored
            again.
        search_scores: the search's.
        feasible: whether these weights predict numbers.
    """

    trial: int
    scores: Mapping[str, Any]
    search_scores: Mapping[str, Any]
    feasible: bool = True

    @classmethod
    def of(cls, record: TrialRecord) -> Self:
        """Create a finalist that is not re-scored."""
        return cls(record.number, record.scores, record.scores)


@dataclass(frozen=True)
class Finals:
    """The finalists, the best of the search first, and whether they were re-scored."""

    finalists: tuple[Finalist, ...]
    rescored: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from the values of `to_dict`; other keys are ignored."""
        found = tuple(Finalist(**finalist) for finalist in values["finalists"])
        return cls(found, values["rescored"])


def score_finalists(
    records: Sequence[TrialRecord],
    choice: Choice,
    n_finalists: int,
    score: Callable[[TrialRecord], Finalist],
) -> list[Finalist]:
    """Re-score the `n_finalists` best trials, and further ones until one can be selected.

    Args:
        records: of the search.
        choice: the rule.
        n_finalists: at least 1; there may be fewer that the rule takes.
        score: scores a trial again.

    Raises:
        StudyError: the rule takes no trial.
    """
    found: list[Finalist] = []
    for record, _ in choice.ranking(records):
        if len(found) >= n_finalists and _takes_one(records, found, choice):
            break
        found.append(score(record))
    return found


def choose_finalist(
    records: Sequence[TrialRecord], finals: Finals, choice: Choice
) -> tuple[TrialRecord, Finalist, str]:
    """Return the first finalist in the rule's ranking of all trials, and the reason.

    The other trials stay as they were scored: the ends of a front, between which a knee lies, are
    theirs too.

    Returns:
        The trial as the search knows it, its new scores, and the reason.

    Raises:
        StudyError: the rule takes none of the finalists with their new scores.
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


def _what_it_changed(chosen: int, finals: Finals) -> str:
    if not finals.rescored:
        return ""
    first, count = finals.finalists[0].trial, len(finals.finalists)
    several = f"{count} finalists were" if count > 1 else "it was"
    instead = "" if chosen == first else f", which puts it before trial {first}"
    return f"; {several} re-scored on the exported weights{instead}"


def _takes_one(
    records: Sequence[TrialRecord], finalists: Sequence[Finalist], choice: Choice
) -> bool:
    try:
        choose_finalist(records, Finals(tuple(finalists), rescored=True), choice)
    except StudyError:
        return False
    return True

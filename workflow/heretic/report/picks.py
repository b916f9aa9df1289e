"""Side-by-side table of the picks of `select`."""

from collections.abc import Sequence
from dataclasses import dataclass

from heretic.evaluation.number_format import short
from heretic.evaluation.summary import Cell, summarize_evaluation
from heretic.report.run_reader import Pick, Run

HELD_OUT = ("refusals", "recovered", "kl_first_token")


@dataclass(frozen=True)
class PickRow:
    """A selected trial, with the path of its model relative to the run's folder."""

    rule: str
    trial: int
    model: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class PicksTable:
    """Headings and a row per rule.

    Attributes:
        headings: Headings of the cells.
        rows: The picks, starting with the main result.
        alike: Sentences on rules that selected the same trial; empty if there are none.
    """

    headings: tuple[str, ...]
    rows: tuple[PickRow, ...]
    alike: str


def picks_table(run: Run) -> PicksTable | None:
    """Return the picks of a run, or None if there is only the main result."""
    if not run.further_picks:
        return None
    scores = list(dict.fromkeys(name for pick in run.picks for name in pick.best.scores))
    measures = summarize_evaluation(run.evaluation)
    kept = [name for name in HELD_OUT if name in measures.keys]
    headings = dict(zip(measures.keys, measures.headings, strict=True))
    rows = tuple(
        PickRow(pick.rule, pick.best.trial, pick.model, _cells(pick, scores, kept))
        for pick in run.picks
    )
    shown = (*(f"Search: {name}" for name in scores), *(f"Held out: {headings[n]}" for n in kept))
    return PicksTable(shown, rows, _alike(run.picks))


def _cells(pick: Pick, scores: Sequence[str], measures: Sequence[str]) -> tuple[Cell, ...]:
    found = pick.best.scores
    summary = summarize_evaluation(pick.evaluation)
    edited = next(row for row in summary.rows if row.name == "edited")
    by_name = dict(zip(summary.keys, edited.cells, strict=True))
    missing = Cell("n/a")
    searched = (Cell(short(found[name])) if name in found else missing for name in scores)
    return (*searched, *(by_name.get(name, missing) for name in measures))


def _alike(picks: Sequence[Pick]) -> str:
    by_trial: dict[int, list[str]] = {}
    for pick in picks:
        by_trial.setdefault(pick.best.trial, []).append(pick.rule)
    same = {trial: rules for trial, rules in by_trial.items() if len(rules) > 1}
    told = (f"{' and '.join(rules)} selected the same trial {n}" for n, rules in same.items())
    return "".join(f"{text}, so their models are identical. " for text in told).strip()

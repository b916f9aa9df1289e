"""Held-out tables as plain values for the report, terminal, model card and headlines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heretic.evaluation.number_format import MISSING, nats, p_value, percent, short
from heretic.scorer_registry import heading, holdout_scorers

CONTROLS = {
    "noop": "Control: no-op",
    "random_direction": "Control: random direction",
    "shuffled_labels": "Control: shuffled labels",
}


@dataclass(frozen=True)
class Cell:
    """Measurement with its value, the underlying count (rates only), and the 95% interval."""

    value: str
    count: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """Variant of the model, with a cell per column."""

    name: str
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Summary:
    """Column keys, their headings, and a row per model variant."""

    keys: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[Row, ...]


def summarize_evaluation(evaluation: Mapping[str, Any]) -> Summary:
    """Return the original, edited and control rows; omit columns that no row has."""
    parts = {"original": ("Original", evaluation["original"])}
    parts["edited"] = ("Edited", evaluation["edited"])
    for name, part in evaluation.get("controls", {}).items():
        parts[name] = (CONTROLS.get(name, f"Control: {name.replace('_', ' ')}"), part)
    measured = {name: {**part.get("scores", {}), **part} for name, (_, part) in parts.items()}
    further = dict.fromkeys(key for _, part in parts.values() for key in part.get("scores", {}))
    wanted = dict.fromkeys((*holdout_scorers(), *further))
    keys = tuple(key for key in wanted if any(key in part for part in measured.values()))
    rows = tuple(
        Row(name, label, tuple(_cell(measured[name].get(key)) for key in keys))
        for name, (label, _) in parts.items()
    )
    return Summary(keys, tuple(map(heading, keys)), rows)


@dataclass(frozen=True)
class PairedRow:
    """A measure, the prompts on which it holds for only one model, and McNemar's p-value."""

    label: str
    only_original: int
    only_edited: int
    p_value: str


def paired_rows(evaluation: Mapping[str, Any]) -> tuple[PairedRow, ...]:
    """Return tests of original against edited in the order of the table's columns."""
    tests = evaluation.get("paired", {})
    return tuple(
        PairedRow(
            heading(key),
            tests[key]["only_original"],
            tests[key]["only_edited"],
            p_value(tests[key]["p_value"]),
        )
        for key in holdout_scorers()
        if key in tests
    )


def category_tables(evaluation: Mapping[str, Any]) -> dict[str, Summary]:
    """Return a table per prompt set, with a row per category and each measure before and after."""
    return {
        name: _category_table(categories)
        for name, categories in evaluation.get("by_category", {}).items()
    }


def _category_table(categories: Mapping[str, Any]) -> Summary:
    found = {key for parts in categories.values() for part in parts.values() for key in part}
    keys = tuple(key for key in holdout_scorers() if key in found)
    columns = [(key, side) for key in keys for side in ("original", "edited")]
    return Summary(
        tuple(f"{key}_{side}" for key, side in columns),
        tuple(f"{heading(key)}, {side}" for key, side in columns),
        tuple(
            Row(category, category, tuple(_cell(parts[side].get(key)) for key, side in columns))
            for category, parts in categories.items()
        ),
    )


def _cell(measure: Mapping[str, Any] | None) -> Cell:
    if measure is None:
        return Cell(MISSING)
    if "value" in measure:
        ends = " to ".join(map(short, measure.get("interval", ())))
        return Cell(short(measure["value"]), "", ends)
    low, high = measure["interval"]
    if "mean" in measure:
        if low == high == 0:  # zero by definition, as for the original itself
            return Cell(nats(0.0))
        return Cell(nats(measure["mean"]), "", f"{nats(low)} to {nats(high)}")
    count = f"{measure['count']}/{measure['total']}"
    return Cell(percent(measure["rate"]), count, f"{percent(low)} to {percent(high)}")

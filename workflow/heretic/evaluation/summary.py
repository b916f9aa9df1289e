"""Held-out tables as plain values for the report, terminal, model card and headlines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEASURES = {
    "refusals": "Refusals",
    "false_refusals": "False refusals",
    "degenerate": "Degenerate",
    "recovered": "Recovered",
    "kept": "Kept",
    "kl_first_token": "KL first token",
    "kl_teacher_forced": "KL teacher-forced",
}
CONTROLS = {
    "noop": "Control: no-op",
    "random_direction": "Control: random direction",
    "shuffled_labels": "Control: shuffled labels",
}
SMALLEST_P = 0.001
MISSING = "n/a"


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
    headings = {**{key: key.replace("_", " ").capitalize() for key in further}, **MEASURES}
    wanted = dict.fromkeys((*MEASURES, *further))
    keys = tuple(key for key in wanted if any(key in part for part in measured.values()))
    rows = tuple(
        Row(name, label, tuple(_cell(measured[name].get(key)) for key in keys))
        for name, (label, _) in parts.items()
    )
    return Summary(keys, tuple(headings[key] for key in keys), rows)


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
            label,
            tests[key]["only_original"],
            tests[key]["only_edited"],
            p_value(tests[key]["p_value"]),
        )
        for key, label in MEASURES.items()
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
    keys = tuple(key for key in MEASURES if key in found)
    columns = [(key, side) for key in keys for side in ("original", "edited")]
    return Summary(
        tuple(f"{key}_{side}" for key, side in columns),
        tuple(f"{MEASURES[key]}, {side}" for key, side in columns),
        tuple(
            Row(category, category, tuple(_cell(parts[side].get(key)) for key, side in columns))
            for category, parts in categories.items()
        ),
    )


def p_value(value: float) -> str:
    """Format a probability with three decimals; smaller values as less than a thousandth."""
    if value < SMALLEST_P:
        return f"<{SMALLEST_P}"
    return f"{value:.3f}" if value < 1 else "1"


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


def percent(rate: float) -> str:
    """Format a share as a percentage with at most one decimal, never rounded to 0% or 100%."""
    if 0 < rate < 0.0005:
        return "<0.1%"
    if 0.9995 < rate < 1:
        return ">99.9%"
    text = f"{100 * rate:.1f}"
    return f"{text.removesuffix('.0')}%"


def nats(value: float) -> str:
    """Format a KL divergence with three significant digits, keeping trailing zeros."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.0e}"
    if abs(value) < 0.1:
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def short(value: object) -> str:
    """Format a parameter: numbers with four digits, other values unchanged."""
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)

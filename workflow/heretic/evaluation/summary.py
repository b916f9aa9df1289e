"""The before/after table as plain values, shared by the page, the terminal and the headline."""

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
CONTROLS = {"noop": "Control: no-op", "random_direction": "Control: random direction"}
MISSING = "n/a"


@dataclass(frozen=True)
class Cell:
    """One measurement: the value, the count behind it (rates only), its 95% interval."""

    value: str
    count: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One variant of the model with a cell per column."""

    name: str
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Summary:
    """Column keys, their headings and a row per variant of the model."""

    keys: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[Row, ...]


def summarise(evaluation: Mapping[str, Any]) -> Summary:
    """Original, edited and control rows; a column appears where at least one row has it."""
    parts = {"original": ("Original", evaluation["original"])}
    parts["edited"] = ("Edited", evaluation["edited"])
    for name, part in evaluation["controls"].items():
        parts[name] = (CONTROLS.get(name, f"Control: {name.replace('_', ' ')}"), part)
    keys = tuple(key for key in MEASURES if any(key in part for _, part in parts.values()))
    rows = tuple(
        Row(name, label, tuple(_cell(part.get(key)) for key in keys))
        for name, (label, part) in parts.items()
    )
    return Summary(keys, tuple(MEASURES[key] for key in keys), rows)


def _cell(measure: Mapping[str, Any] | None) -> Cell:
    if measure is None:
        return Cell(MISSING)
    low, high = measure["interval"]
    if "mean" in measure:
        if low == high == 0:  # zero by definition: the original against itself
            return Cell(nats(0.0))
        return Cell(nats(measure["mean"]), "", f"{nats(low)} to {nats(high)}")
    count = f"{measure['count']}/{measure['total']}"
    return Cell(percent(measure["rate"]), count, f"{percent(low)} to {percent(high)}")


def percent(rate: float) -> str:
    """A share as a percentage with at most one decimal; never rounded to a whole 0% or 100%."""
    if 0 < rate < 0.0005:
        return "<0.1%"
    if 0.9995 < rate < 1:
        return ">99.9%"
    text = f"{100 * rate:.1f}"
    return f"{text.removesuffix('.0')}%"


def nats(value: float) -> str:
    """A KL divergence with three significant digits and no trailing zeros lost."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.0e}"
    if abs(value) < 0.1:
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def short(value: object) -> str:
    """A parameter for people: numbers with four digits, the rest as it is."""
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)

"""The evaluation table in plain text, printed at the end of a run."""

import io
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from heretic.artifact_types import Evaluation
from heretic.errors import printable
from heretic.evaluation.summary import Cell, summarize_evaluation
from heretic.saved_picks import about_outdated_picks

FIXED_WIDTH = 100
LABEL_WIDTH, GAP = 9, 2
CAPTION = "Held-out prompts; 95% intervals below each value; KL in nats."


def summary_table(evaluation: Mapping[str, Any]) -> str:
    """Return the rows of the report's table as text without colors.

    The table is as wide as the terminal, at least 100 characters; exactly 100 if the output is not
    a terminal. Columns that do not fit, such as those of additional metrics, go to a second table.
    """
    summary = summarize_evaluation(evaluation)
    labels = [row.label for row in summary.rows]
    columns = [
        _Column(heading, [_lines(row.cells[place]) for row in summary.rows])
        for place, heading in enumerate(summary.headings)
    ]
    width = _width()
    parts = _side_by_side(columns, width - LABEL_WIDTH - GAP)
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None)
    for part in parts:
        console.print(_table(labels, part))
    return "\n".join([*(line.rstrip() for line in text.getvalue().splitlines()), CAPTION])


@dataclass(frozen=True)
class _Column:
    heading: str
    texts: list[str]

    @property
    def width(self) -> int:
        """Width of the longest unbreakable part."""
        pieces = [*self.heading.split(), *(line for t in self.texts for line in t.splitlines())]
        return max(map(len, pieces))


def _side_by_side(columns: Sequence[_Column], room: int) -> list[list[_Column]]:
    """Distribute the columns over as few tables as possible, in order."""
    parts: list[list[_Column]] = [[]]
    for column in columns:
        taken = sum(other.width + GAP for other in parts[-1])
        if parts[-1] and taken + column.width > room:
            parts.append([])
        parts[-1].append(column)
    return parts


def _table(labels: Sequence[str], columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", width=LABEL_WIDTH)
    for column in columns:
        table.add_column(column.heading, justify="right", width=column.width)
    for place, label in enumerate(labels):
        table.add_row(label, *(column.texts[place] for column in columns))
        table.add_section()
    return table


def run_summaries(results: Path, runs: Iterable[str]) -> str:
    """Return the report path, the table and the outdated picks of each evaluated run."""
    return printable(
        "\n".join(
            _run_summary(results / run)
            for run in runs
            if (results / run / "evaluation.json").is_file()
        )
    )


def _run_summary(folder: Path) -> str:
    path = folder / "evaluation.json"
    table = summary_table(Evaluation.read(path).to_dict())
    lines = [f"\n{folder.name}: report in {folder}/report.html", table]
    if about := about_outdated_picks(folder):
        lines.append(f"{folder.name}: {about}")
    return "\n".join(lines)


def _width() -> int:
    if not sys.stdout.isatty():
        return FIXED_WIDTH
    return max(FIXED_WIDTH, shutil.get_terminal_size().columns)


def _lines(cell: Cell) -> str:
    interval = cell.interval.replace("% to ", " to ").replace(" to ", "-")
    return "\n".join(part for part in (cell.value, cell.count, interval) if part)

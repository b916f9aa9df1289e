"""The before/after table in plain text, for the end of a run in a terminal."""

import io
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from heretic.artifacts import read_json
from heretic.evaluation.summary import Cell, summarise

FIXED_WIDTH = 100
LABEL_WIDTH = 9


def summary_table(evaluation: Mapping[str, Any]) -> str:
    """The rows of the report's table as text without colours.

    As wide as the terminal, at least 100 characters; exactly 100 when the output is no terminal.
    """
    summary = summarise(evaluation)
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0),
        caption="Held-out prompts; 95% intervals below each value; KL in nats.",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("", width=LABEL_WIDTH)
    texts = [[_lines(cell) for cell in row.cells] for row in summary.rows]
    for heading, column in zip(summary.headings, zip(*texts, strict=True), strict=True):
        pieces = [*heading.split(), *(line for text in column for line in text.splitlines())]
        table.add_column(heading, justify="right", width=max(map(len, pieces)))
    for row, cells in zip(summary.rows, texts, strict=True):
        table.add_row(row.label, *cells)
        table.add_section()
    text = io.StringIO()
    Console(file=text, width=_width(), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def run_summaries(results: Path, runs: Iterable[str]) -> str:
    """Where the report of each run is, and its table, of those that have got so far."""
    return "\n".join(
        f"\n{run}: report in {results / run}/report.html\n{summary_table(read_json(path))}"
        for run in runs
        if (path := results / run / "evaluation.json").is_file()
    )


def _width() -> int:
    if not sys.stdout.isatty():
        return FIXED_WIDTH
    return max(FIXED_WIDTH, shutil.get_terminal_size().columns)


def _lines(cell: Cell) -> str:
    interval = cell.interval.replace("% to ", " to ").replace(" to ", "-")
    return "\n".join(part for part in (cell.value, cell.count, interval) if part)

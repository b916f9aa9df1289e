"""Selected rows of local prompt files, and the prompts in them with their place."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from heretic.prompts.columns import TEXT_COLUMN, Row
from heretic.prompts.files import PARQUET, check_file, read_file
from heretic.prompts.parquet import ParquetFile
from heretic.prompts.prompt import Prompt
from heretic.prompts.rows import prompt_of
from heretic.prompts.slicing import columns_of, select_rows
from heretic.settings.prompt_sources import PromptSource

# Only split of a file.
FILE_SPLIT = "train"


def existing_path(dataset: str) -> Path | None:
    """Return the file or folder of this name, or None."""
    # Path.expanduser() raises where ~name is nobody's home.
    path = Path(os.path.expanduser(dataset))  # noqa: PTH111
    # Unlike Path.exists(), os.path.exists() returns False for names that are too long.
    return path if os.path.exists(path) else None  # noqa: PTH110


def read_local_file(path: Path, source: PromptSource) -> tuple[list[Row], PromptSource]:
    """Return the rows selected by a source, and the source with its resolved column.

    Raises:
        PromptError: as `read_file` and `select_rows`.
    """
    if path.suffix.lower() == ".txt":
        source = source.model_copy(update={"column": TEXT_COLUMN})
    columns = columns_of(source)
    if path.suffix.lower() != PARQUET:
        rows = read_file(path, columns, source.separator, source.encoding)
        return select_from({FILE_SPLIT: rows}, source), source
    check_file(path)
    file = ParquetFile(path, columns)

    def read(_: str, places: Sequence[int]) -> list[Row]:
        return file.read(places)

    return select_rows(source, {FILE_SPLIT: file.count}, read, where_of(source)), source


def select_from(splits: Mapping[str, list[Row]], source: PromptSource) -> list[Row]:
    """Return the rows that a source selects from splits in memory.

    Raises:
        PromptError: as `select_rows`.
    """

    def read(name: str, places: Sequence[int]) -> list[Row]:
        return [splits[name][place] for place in places]

    sizes = {name: len(rows) for name, rows in splits.items()}
    return select_rows(source, sizes, read, where_of(source))


def located_prompts(
    rows: Iterable[Row], source: PromptSource, system_column: str | None = None
) -> Iterator[tuple[str, Prompt]]:
    """Yield each prompt of selected rows with its place, such as `row 3 of my.csv, split train`.

    Raises:
        PromptError: as `prompt_of`.
    """
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {where_of(source)}"
        system = row.get(system_column) if system_column else None
        prompt = prompt_of(row, source, where, system)
        if prompt is not None:
            yield where, prompt


def where_of(source: PromptSource) -> str:
    """Return the name of a source for messages."""
    config = f", config {source.config}" if source.config else ""
    return f"{source.dataset}{config}, split {source.split}"

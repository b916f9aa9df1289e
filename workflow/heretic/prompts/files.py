"""Prompt files on disk: text, CSV, TSV, JSON and JSON Lines, as rows of named columns.

Text formats are read here instead of by `datasets`, whose CSV reader converts prompts such as
"None" and "NA" to nulls, keeps a byte order mark in the first prompt, and does not report line
numbers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from heretic.errors import PromptError
from heretic.prompts.columns import TEXT_COLUMN, Row
from heretic.prompts.delimited import DEFAULTS, read_delimited
from heretic.prompts.encodings import decode_text
from heretic.prompts.json_files import read_json_lines, read_json_text
from heretic.prompts.limits import MOST_FILE_BYTES, require_rows
from heretic.prompts.visible import is_blank

PARQUET = ".parquet"
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", PARQUET)
# Not used as endings of hub ids, so such a name is meant as a file.
FILE_SUFFIXES = (*SUFFIXES, ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".xml", ".md",
                 ".docx", ".pdf", ".zip", ".gz", ".zst", ".arrow", ".ndjson", ".pkl")  # fmt: skip

Reader = Callable[[Path, str, Sequence[str]], list[Row]]


def check_file(path: Path) -> None:
    """Reject files that are invalid without opening them.

    Raises:
        PromptError: the file is empty, too large, of an unsupported suffix, or not a regular file.
    """
    if not path.is_file():
        raise PromptError(f"{path} is not a regular file; copy its content into one")
    if path.suffix.lower() not in SUFFIXES:
        raise PromptError(
            f"{path} has the unsupported suffix {path.suffix!r}; use one of {', '.join(SUFFIXES)}"
        )
    size = path.stat().st_size
    if size == 0:
        raise PromptError(f"{path} is empty; write at least one prompt into it")
    if size > MOST_FILE_BYTES and path.suffix.lower() != PARQUET:
        raise PromptError(
            f"{path} has {size / 1e6:.0f} MB, more than the maximum of {MOST_FILE_BYTES / 1e6:.0f} "
            "MB for this format; use a Parquet file, of which only a slice is read"
        )


def check_options(path: Path, separator: str | None, encoding: str | None) -> None:
    """Reject options that the format of a file does not have.

    Raises:
        PromptError: `separator` of a file without columns of text, or `encoding` of a binary file.
    """
    suffix = path.suffix.lower()
    if separator is not None and suffix not in DEFAULTS:
        raise PromptError(
            f"`separator` applies only to .csv and .tsv files, but {path} is neither; remove it"
        )
    if encoding is not None and (suffix == PARQUET or suffix not in SUFFIXES):
        raise PromptError(
            f"`encoding` applies only to text files, but {path} is not a text file; remove it"
        )


def read_file(
    path: Path, columns: Sequence[str], separator: str | None = None, encoding: str | None = None
) -> list[Row]:
    """Read the named columns of every row; a text file has only `text`.

    Args:
        path: existing text file.
        columns: columns to read, the prompt's column first.
        separator: separator of cells; None for the default of the format.
        encoding: Python codec; None for UTF-8.

    Returns:
        One record per row in file order, without the keys that a JSON row lacks.

    Raises:
        PromptError: the file is empty, damaged, of another encoding or format, or lacks a column.
    """
    check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".txt" and len(columns) > 1:
        raise PromptError(
            f"{path} is plain text and has no column {columns[1]!r}; remove the key that needs it, "
            "or use a .csv or .jsonl file"
        )
    try:
        text = decode_text(path, encoding)
        readers: dict[str, Reader] = {
            ".txt": _lines,
            ".csv": partial(read_delimited, separator=separator),
            ".tsv": partial(read_delimited, separator=separator),
            ".jsonl": read_json_lines,
            ".json": read_json_text,
        }
        return readers[suffix](path, text, columns)
    except OSError as error:
        raise PromptError(
            f"cannot read {path}: {error.strerror or error}; check the file"
        ) from error


def _lines(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    require_rows(text.count("\n"), str(path))
    return [{TEXT_COLUMN: line} for line in text.split("\n") if not is_blank(line)]

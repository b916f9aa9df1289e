"""Prompt files on disk: text, CSV, TSV, JSON and JSON Lines, as rows of named columns.

Text formats are read here instead of by `datasets`, whose CSV reader converts prompts such as
"None" and "NA" to nulls, keeps a byte order mark in the first prompt, and does not report line
numbers.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from heretic.errors import PromptError, one_line
from heretic.prompts.limits import MOST_FILE_BYTES, MOST_JSON_VALUES, require_rows

PARQUET = ".parquet"
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", PARQUET)
# Not used as endings of hub ids, so such a name is meant as a file.
FILE_SUFFIXES = (*SUFFIXES, ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".xml", ".md",
                 ".docx", ".pdf", ".zip", ".gz", ".zst", ".arrow", ".ndjson", ".pkl")  # fmt: skip
TEXT_COLUMN = "text"
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
MOST_COLUMNS = 1000

Row = dict[str, Any]
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


def read_file(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read the named columns of every row; a text file has only `text`.

    Args:
        path: existing text file.
        columns: columns to read, the prompt's column first.

    Returns:
        One record per row in file order, without the keys that a JSON row lacks.

    Raises:
        PromptError: the file is empty, damaged, not UTF-8, of another format, or lacks a column.
    """
    check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".txt" and len(columns) > 1:
        raise PromptError(
            f"{path} is plain text and has no column {columns[1]!r}; remove the key that needs it, "
            "or use a .csv or .jsonl file"
        )
    try:
        text = _text(path)
        readers: dict[str, Reader] = {
            ".txt": _lines,
            ".csv": partial(_csv, separator=","),
            ".tsv": partial(_csv, separator="\t"),
            ".jsonl": _json_lines,
            ".json": _json,
        }
        return readers[suffix](path, text, columns)
    except OSError as error:
        raise PromptError(
            f"cannot read {path}: {error.strerror or error}; check the file"
        ) from error


def require_columns(columns: Iterable[str], found: Sequence[str], where: str) -> None:
    """Reject columns that do not exist.

    Raises:
        PromptError: a column does not exist; the message lists the available ones.
    """
    for column in columns:
        if column not in found:
            known = ", ".join(found) or "none"
            raise PromptError(
                f"{where} has no column {column!r}; its columns are: {known}; set `column` (or "
                "`answer_column`, `choices_column`, `category_column`) of the prompt set"
            )


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PromptError(f"{path} is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PromptError(f"{path} line {line} is not UTF-8; save the file as UTF-8") from error
    # Not splitlines(): a prompt may contain U+2028 or a form feed, which do not end a line here.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    require_rows(text.count("\n"), str(path))
    return [{TEXT_COLUMN: line} for line in text.split("\n") if line.strip()]


def _csv(path: Path, text: str, columns: Sequence[str], separator: str) -> list[Row]:
    # pyarrow, because the standard module refuses cells above 128 KB unless a process-wide limit
    # is raised.
    import pyarrow as arrow
    from pyarrow import csv as arrow_csv

    text = text.lstrip("\n")
    try:
        header = next(csv.reader(io.StringIO(text), strict=True, delimiter=separator), [])
        _check_separator(header, columns, path)
        require_columns(columns, header, str(path))
        for column in columns:
            if header.count(column) > 1:
                raise PromptError(f"{path} has two columns {column!r}; rename one of them")
        content = text.encode()
        table = arrow_csv.read_csv(
            arrow.BufferReader(content),
            # One block: a cell may be larger than the default block of 1 MB.
            read_options=arrow_csv.ReadOptions(block_size=len(content) + 1, use_threads=False),
            parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(columns),
                column_types={column: arrow.string() for column in columns},
            ),
        )
    except (arrow.ArrowException, csv.Error) as error:
        raise PromptError(
            f"{path} is not valid {path.suffix[1:].upper()} ({one_line(error)}); put cells that "
            f"contain {SEPARATORS[separator]} or line breaks in double quotes"
        ) from error
    require_rows(table.num_rows, str(path))
    return list(table.to_pylist())


def _check_separator(header: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Return a hint if another separator would result in the columns."""
    if len(header) != 1:
        return
    for separator, name in SEPARATORS.items():
        cells = header[0].split(separator, MOST_COLUMNS)
        if len(cells) > 1 and columns[0] in [cell.strip("\"' ") for cell in cells]:
            use = "commas, or rename it to .tsv" if separator == "\t" else "commas"
            raise PromptError(f"{path} separates cells by {name}; save it with {use}")


def _json_lines(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    require_rows(text.count("\n"), str(path))
    _check_json_size(text, path)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_record(_parsed(line, f"{path} line {number}"), f"{path} line {number}"))
    return _with_columns(rows, path, columns)


def _json(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    _check_json_size(text, path)
    if text.lstrip().startswith("{") and len(text.strip().split("\n")) > 1:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return _json_lines(path, text, columns)
    value = _parsed(text, str(path))
    if not isinstance(value, list):
        raise PromptError(f"{path} must hold a JSON list of objects, or one object a line")
    require_rows(len(value), str(path))
    rows = [_record(item, f"{path} item {number}") for number, item in enumerate(value, start=1)]
    return _with_columns(rows, path, columns)


def _check_json_size(text: str, path: Path) -> None:
    if text.count("[") + text.count("{") > MOST_JSON_VALUES:
        raise PromptError(
            f"{path} holds more than {MOST_JSON_VALUES:,} lists and objects; use a Parquet file, "
            "of which only a slice is read"
        )


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{where} is not valid JSON: {one_line(error)}") from error


def _record(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise PromptError(
            f'{where} is not a JSON object but {type(value).__name__}; write {{"text": "…"}}'
        )
    return value


def _with_columns(rows: list[Row], path: Path, columns: Sequence[str]) -> list[Row]:
    if rows:
        found = list(dict.fromkeys(key for row in rows for key in row))
        require_columns(columns, found, str(path))
    return rows

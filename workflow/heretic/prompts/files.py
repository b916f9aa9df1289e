"""Prompt files on disk: text, CSV, JSON, JSON Lines and Parquet, as rows of named columns.

Text formats are read here and not by `datasets`: its CSV reader turns prompts such as "None" and
"NA" into nulls, a byte order mark stays in the first prompt, and messages do not name the line.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from heretic.errors import PromptError, one_line

SUFFIXES = (".txt", ".csv", ".jsonl", ".json", ".parquet")
# Never part of a hub id that anybody uses, so such a name is meant as a file.
FILE_SUFFIXES = (*SUFFIXES, ".tsv", ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".xml", ".md",
                 ".docx", ".pdf", ".zip", ".gz", ".zst", ".arrow", ".ndjson", ".pkl")  # fmt: skip
TEXT_COLUMN = "text"

Row = dict[str, Any]


def check_file(path: Path) -> None:
    """Refuse what need not be opened to be refused.

    Raises:
        PromptError: the file has no bytes or a suffix that is not supported.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PromptError(
            f"{path} has the unsupported suffix {path.suffix!r}; use one of {', '.join(SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise PromptError(f"{path} is empty; write at least one prompt into it")


def read_file(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read the named columns of every row; a text file has only `text`.

    Args:
        path: an existing file.
        columns: what to read, the prompt's column first.

    Returns:
        One record per row in file order. A key is missing where JSON has none.

    Raises:
        PromptError: the file is empty, damaged, not UTF-8, of another format, or lacks a column.
    """
    check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".txt" and len(columns) > 1:
        raise PromptError(
            f"{path} is plain text and has no column {columns[1]!r}; drop the key that needs it, "
            "or give a .csv or .jsonl file"
        )
    try:
        if suffix == ".parquet":
            return _parquet(path, columns)
        text = _text(path)
        readers = {".txt": _lines, ".csv": _csv, ".jsonl": _json_lines, ".json": _json}
        return readers[suffix](path, text, columns)
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror or error}") from error


def require_columns(columns: Iterable[str], found: Sequence[str], where: str) -> None:
    """Refuse columns that do not exist.

    Raises:
        PromptError: lists the columns there are.
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
    # Not splitlines(): a prompt may hold U+2028 or a form feed, which are no line ends here.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    return [{TEXT_COLUMN: line} for line in text.split("\n") if line.strip()]


def _csv(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    # pyarrow, because the standard module refuses cells above 128 KB unless a process-wide limit
    # is raised.
    import pyarrow as arrow
    from pyarrow import csv as arrow_csv

    text = text.lstrip("\n")
    try:
        header = next(csv.reader(io.StringIO(text), strict=True), [])
        require_columns(columns, header, str(path))
        for column in columns:
            if header.count(column) > 1:
                raise PromptError(f"{path} has two columns {column!r}; rename one of them")
        content = text.encode()
        table = arrow_csv.read_csv(
            arrow.BufferReader(content),
            # One block: a cell may be larger than the default block of 1 MB.
            read_options=arrow_csv.ReadOptions(block_size=len(content) + 1, use_threads=False),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(columns),
                column_types={column: arrow.string() for column in columns},
            ),
        )
    except (arrow.ArrowInvalid, csv.Error) as error:
        raise PromptError(
            f"{path} is not valid CSV ({one_line(error)}); put cells that contain commas or line "
            "breaks in double quotes"
        ) from error
    return list(table.to_pylist())


def _json_lines(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_record(_parsed(line, f"{path} line {number}"), f"{path} line {number}"))
    return _with_columns(rows, path, columns)


def _json(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    if text.lstrip().startswith("{") and len(text.strip().split("\n")) > 1:
        try:
            json.loads(text)
        except ValueError:
            return _json_lines(path, text, columns)
    value = _parsed(text, str(path))
    if not isinstance(value, list):
        raise PromptError(f"{path} must hold a JSON list of objects, or one object a line")
    rows = [_record(item, f"{path} item {number}") for number, item in enumerate(value, start=1)]
    return _with_columns(rows, path, columns)


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


def _parquet(path: Path, columns: Sequence[str]) -> list[Row]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        require_columns(columns, parquet.read_schema(path).names, str(path))
        return list(parquet.read_table(path, columns=list(columns)).to_pylist())
    except arrow.ArrowException as error:
        raise PromptError(f"{path} is not a readable Parquet file: {one_line(error)}") from error

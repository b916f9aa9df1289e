"""Prompt files in JSON: lists of texts or objects, objects of columns, and JSON Lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heretic.errors import PromptError, one_line
from heretic.prompts.columns import Row, require_columns
from heretic.prompts.limits import MOST_JSON_VALUES, require_rows


def read_json_lines(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    """Return the objects of a JSON Lines file; a file that holds one list is read as JSON.

    Raises:
        PromptError: a line is not a JSON object, or a column does not exist.
    """
    require_rows(text.count("\n"), str(path))
    _check_size(text, path)
    if text.lstrip().startswith("["):
        return _rows(_parsed(text, str(path)), path, columns)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_record(_parsed(line, f"{path} line {number}"), f"{path} line {number}"))
    return _with_columns(rows, path, columns)


def read_json_text(path: Path, text: str, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a JSON file; one object a line is read as JSON Lines.

    Texts of a list are values of the first column.

    Raises:
        PromptError: the file has another structure, or a column does not exist.
    """
    _check_size(text, path)
    if text.lstrip().startswith("{") and len(text.strip().split("\n")) > 1:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return read_json_lines(path, text, columns)
    return _rows(_parsed(text, str(path)), path, columns)


def _rows(value: Any, path: Path, columns: Sequence[str]) -> list[Row]:
    if isinstance(value, dict) and value and all(map(_is_column, value.values())):
        return _of_columns(value, path, columns)
    if not isinstance(value, list):
        raise PromptError(
            f"{path} must hold a JSON list of texts or objects, an object of columns, or one "
            "object per line"
        )
    require_rows(len(value), str(path))
    if value and all(isinstance(item, str) for item in value):
        if len(columns) > 1:
            raise PromptError(
                f"{path} is a list of texts and has no column {columns[1]!r}; remove the key that "
                "needs it, or write objects"
            )
        return [{columns[0]: item} for item in value]
    rows = [_record(item, f"{path} item {number}") for number, item in enumerate(value, start=1)]
    return _with_columns(rows, path, columns)


def _is_column(value: object) -> bool:
    return isinstance(value, list | dict)


def _of_columns(
    found: dict[str, list[Any] | dict[str, Any]], path: Path, columns: Sequence[str]
) -> list[Row]:
    """Return the rows of an object of columns, each a list or an object of values by row name."""
    require_columns(columns, list(found), str(path))
    used = {name: found[name] for name in columns}
    lists = {name: values for name, values in used.items() if isinstance(values, list)}
    objects = {name: values for name, values in used.items() if isinstance(values, dict)}
    if (objects and lists) or len(set(map(len, lists.values()))) > 1:
        raise PromptError(f"{path} has columns that differ in length; write one object per row")
    if lists:
        require_rows(len(lists[columns[0]]), str(path))
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    names = dict.fromkeys(name for values in objects.values() for name in values)
    require_rows(len(names), str(path))
    return [{column: objects[column].get(name) for column in objects} for name in names]


def _check_size(text: str, path: Path) -> None:
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

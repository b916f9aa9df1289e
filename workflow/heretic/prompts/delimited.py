"""Delimited text (CSV, TSV): separators, quotes and the header.

Cells are quoted as in RFC 4180, with quotes inside of a cell doubled. Files with quotes escaped by
a backslash, which are not valid otherwise, are read in that dialect.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from heretic.errors import PromptError, one_line
from heretic.prompts.columns import Row, plain_name, require_columns
from heretic.prompts.limits import require_rows

SEPARATORS: Final = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
DEFAULTS: Final = {".csv": ",", ".tsv": "\t"}
MOST_COLUMNS = 1000
# First line by which a file declares its separator to spreadsheet programs.
_DECLARATION = re.compile(r'"?sep=([^\w\s"\\]|\t)"?[ \t]*(?:\n|\Z)', re.IGNORECASE)
_DOUBLED, _ESCAPED = r'(?:[^"]++|"")*+', r'(?:[^"\\]++|\\.|"")*+'
_ESCAPE = re.compile(r'\\(["\\])|"(")')


def read_delimited(
    path: Path, text: str, columns: Sequence[str], separator: str | None
) -> list[Row]:
    """Return the named columns of every row.

    Blanks around the names in the header are ignored.

    Args:
        path: file of the text, for messages and the default separator.
        text: contents with line breaks as `\\n`.
        columns: columns to read.
        separator: separator of cells; None for the one that the file declares in a first line such
            as `sep=;`, otherwise commas in `.csv` and tabs in `.tsv`.

    Raises:
        PromptError: a cell is not quoted correctly, rows differ in length, a column does not exist
            or is ambiguous, or the file appears to have another separator.
    """
    declared, text = _declaration(text.lstrip("\n"))
    if declared and separator and declared != separator:
        raise PromptError(
            f"{path} declares the separator {declared!r} in its first line, but its prompt set has "
            f"`separator: {_key(separator)}`; remove one of them"
        )
    separator = separator or declared or DEFAULTS[path.suffix.lower()]
    try:
        return _parsed(path, text, columns, separator)
    except PromptError:
        converted = _with_doubled_quotes(text, separator)
        if converted is None:
            raise
        return _parsed(path, converted, columns, separator)


def _parsed(path: Path, text: str, columns: Sequence[str], separator: str) -> list[Row]:
    # pyarrow, because the standard module refuses cells above 128 KB unless a process-wide limit
    # is raised.
    import pyarrow as arrow
    from pyarrow import csv as arrow_csv

    try:
        header = next(csv.reader(io.StringIO(text), strict=True, delimiter=separator), [])
        names = [cell if cell in columns else cell.strip() for cell in header]
        _check_separator(names, columns, path, separator)
        require_columns(columns, names, str(path))
        for column in columns:
            if names.count(column) > 1:
                raise PromptError(f"{path} has two columns {column!r}; rename one of them")
        _check_quotes(path, text, separator)
        content = text.encode()
        table = arrow_csv.read_csv(
            arrow.BufferReader(content),
            read_options=arrow_csv.ReadOptions(
                # One block: a cell may be larger than the default block of 1 MB.
                block_size=len(content) + 1,
                use_threads=False,
                column_names=names,
                skip_rows_after_names=1,
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(columns),
                column_types={column: arrow.string() for column in columns},
            ),
        )
    except (arrow.ArrowException, csv.Error) as error:
        shown = SEPARATORS.get(separator, repr(separator))
        raise PromptError(
            f"{path} is not valid {path.suffix[1:].upper()} ({one_line(error)}); put cells that "
            f"contain {shown} or line breaks in double quotes"
        ) from error
    require_rows(table.num_rows, str(path))
    return list(table.to_pylist())


def _declaration(text: str) -> tuple[str | None, str]:
    """Return the separator declared in a first line `sep=;`, if any, and the rest of the text."""
    found = _DECLARATION.match(text)
    return (found[1], text[found.end() :].lstrip("\n")) if found else (None, text)


def _check_separator(
    names: Sequence[str], columns: Sequence[str], path: Path, separator: str
) -> None:
    """Reject a header with another separator: a single cell, or one with the prompt's column."""
    wanted = plain_name(columns[0])
    if wanted in map(plain_name, names):
        return
    header = separator.join(names)
    for other, name in SEPARATORS.items():
        cells = header.split(other, MOST_COLUMNS)
        if other == separator or len(cells) < 2:
            continue
        if len(names) == 1 or wanted in map(plain_name, cells):
            usual = SEPARATORS[DEFAULTS[path.suffix.lower()]]
            raise PromptError(
                f"{path} separates cells by {name}; set `separator: {_key(other)}` in its prompt "
                f"set, or save it with {usual}"
            )


def _key(separator: str) -> str:
    """Return a separator as written in a configuration file."""
    return "tab" if separator == "\t" else f'"{separator}"'


def _check_quotes(path: Path, text: str, separator: str) -> None:
    """Reject quoted cells that do not end where their quotes end.

    pyarrow would remove the quotes and read the remainder of the cell.
    """
    for cell in _quoted(_DOUBLED, separator)(text):
        if _is_regular(cell):
            continue
        line = text.count("\n", 0, cell.start()) + 1
        raise PromptError(
            f"{path} line {line} has a quoted cell that "
            + ("continues after its closing quote" if cell[2] else "is not closed")
            + '; write quotes inside of a cell twice ("")'
        )


def _with_doubled_quotes(text: str, separator: str) -> str | None:
    """Return text with doubled quotes instead of quotes escaped by a backslash.

    Returns:
        None if there are no such quotes, or cells are not valid in this dialect either.
    """
    find = _quoted(_ESCAPED, separator)
    if '\\"' not in text or not all(map(_is_regular, find(text))):
        return None
    parts, end = [], 0
    for cell in find(text):
        value = _ESCAPE.sub(lambda found: found[1] or found[2], cell[1])
        parts += [text[end : cell.start(1)], value.replace('"', '""')]
        end = cell.end(1)
    return "".join([*parts, text[end:]])


def _quoted(body: str, separator: str) -> Callable[[str], Iterator[re.Match[str]]]:
    """Return a function that finds quoted cells.

    Group 1 of a match is the cell without its quotes; group 2 a character after the closing quote
    that does not end the cell, or None if the cell is not closed.
    """
    ends = re.escape(separator) + r"\n"
    pattern = rf'(?:(?<=[{ends}])|\A)"({body})(?:"([^{ends}]?)|\Z)'
    return re.compile(pattern, re.DOTALL).finditer


def _is_regular(cell: re.Match[str]) -> bool:
    return cell[2] == ""

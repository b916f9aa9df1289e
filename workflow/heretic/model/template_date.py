"""Date printed by chat templates: one fixed day for every prompt of a run.

Templates of many families (Llama 3.2, gpt-oss, Mistral) print today's date in each prompt with the
function `strftime_now`, provided by transformers. The same run would measure different prompts
tomorrow. Here, a fixed date becomes part of the template's text: a macro of that name shadows
transformers' function and formats one day at midnight, in English, in any locale and time zone.
"""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final

from heretic.artifacts import read_json, write_json
from heretic.errors import HereticError, SettingsError
from heretic.settings.types import AUTO_DATE, parse_date

FUNCTION: Final = "strftime_now"
# Stores the date of `template_date: auto`. Like the study, it is state rather than an output:
# Snakemake deletes outputs before a rule runs, and a rerun must find the first run's date.
STATE: Final = "template_date.json"
KEY: Final = "template_date"
DTYPES: Final = ("bfloat16", "float16", "float32")

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
NUMBERS = "dfGHIjmMSuUVwWyY"
# Placeholder of a literal percent sign while directives are replaced.
PERCENT = "\ue000"
MACRO = (
    "{{% macro {name}(format) %}}"
    "{{% set found = namespace(text=format.replace('%%', '{percent}')) %}}"
    "{{% for directive, text in {table} if directive in format %}}"
    "{{% set found.text = found.text.replace(directive, text) %}}"
    "{{% endfor %}}{{{{ found.text.replace('{percent}', '%') }}}}{{% endmacro %}}\n"
)


def today() -> date:
    """Return today's date in UTC, the same on machines in different time zones."""
    return datetime.now(UTC).date()


def day_of(template_date: str | None) -> date:
    """Return the date given by `template_date`; today for `auto` and None.

    Raises:
        SettingsError: the value is not a date.
    """
    if template_date is None or template_date == AUTO_DATE:
        return today()
    try:
        return parse_date(template_date)
    except ValueError as error:
        raise SettingsError(f"template_date = {template_date!r}: {error}") from None


def settle_date(template_date: str, folder: Path) -> str:
    """Return the date of a run; `auto` is today's date in the first run and remains that date.

    Args:
        template_date: the setting.
        folder: folder of the run; its `template_date.json` is read, or written if missing.

    Raises:
        HereticError: `template_date.json` does not contain a date.
    """
    if template_date != AUTO_DATE:
        return template_date
    path = folder / STATE
    if not path.exists():
        write_json(path, {KEY: today().isoformat()})
    found = read_json(path).get(KEY)
    try:
        return parse_date(found).isoformat()
    except ValueError as error:
        raise HereticError(
            f"{path} has no valid date ({error}); correct it, or set template_date"
        ) from None


def read_chat(path: Path) -> dict[str, Any]:
    """Return the settings of `load_model` stored in a run's `chat.json`.

    Returns:
        `response_prefix` and `template_date`, which is None if the template prints no date; `dtype`
        if the checkpoint's own data type does not work.

    Raises:
        HereticError: the file is missing or damaged.
    """
    chat = read_json(path)
    if not isinstance(chat.get("response_prefix"), str):
        raise HereticError(f"{path} holds no response_prefix; delete it and run again")
    if KEY not in chat or not isinstance(chat[KEY], str | None):
        raise HereticError(f"{path} holds no date as {KEY}; delete it and run again")
    dtype = chat.get("dtype")
    if dtype is not None and dtype not in DTYPES:
        raise HereticError(f"{path} holds no data type as dtype; delete it and run again")
    chosen = {} if dtype is None else {"dtype": dtype}
    return {"response_prefix": chat["response_prefix"], KEY: chat[KEY], **chosen}


def prints_date(template: str) -> bool:
    """Return whether a template may print a date: no other function provides the time."""
    return FUNCTION in template


def with_fixed_date(template: str, day: date) -> str:
    """Return a template whose `strftime_now` formats midnight of `day`.

    `date_string` is left undefined: templates that print a constant in its place show that constant
    to every user of the model.
    """
    table = json.dumps([*_directives(day)])
    percent = PERCENT.encode("ascii", "backslashreplace").decode()
    # `trim_blocks`, which transformers sets, drops the line break at the macro's end and thereby
    # preserves one at the beginning of the template.
    return MACRO.format(name=FUNCTION, percent=percent, table=table) + template


def _directives(day: date) -> Iterator[tuple[str, str]]:
    """Return each `strftime` directive, with glibc flags, and its text in the C locale."""
    midnight = datetime.combine(day, time())
    numbers = {letter: midnight.strftime(f"%{letter}") for letter in NUMBERS}
    numbers |= {
        "C": numbers["Y"][:2],
        "e": f"{day.day:2d}",
        "g": numbers["G"][2:],
        "k": " 0",
        "l": "12",
        "s": str(int(midnight.replace(tzinfo=UTC).timestamp())),
    }
    weekday, month = WEEKDAYS[day.weekday()], MONTHS[day.month - 1]
    words = {"A": weekday, "a": weekday[:3], "B": month, "b": month[:3], "h": month[:3], "p": "AM"}
    d, m, y, year = (numbers[letter] for letter in "dmyY")
    fixed = {
        "c": f"{words['a']} {words['b']} {numbers['e']} 00:00:00 {year}",
        "D": f"{m}/{d}/{y}",
        "F": f"{year}-{m}-{d}",
        "n": "\n",
        "P": "am",
        "R": "00:00",
        "r": "12:00:00 AM",
        "T": "00:00:00",
        "t": "\t",
        "X": "00:00:00",
        "x": f"{m}/{d}/{y}",
        # For a time without a zone, which is what transformers formats.
        "Z": "",
        "z": "",
    }
    for letter, text in {**numbers, **words, **fixed}.items():
        yield f"%{letter}", text
    for letter, text in numbers.items():
        bare = text.lstrip("0 ") or "0"
        yield f"%-{letter}", bare
        yield f"%_{letter}", bare.rjust(len(text))
        yield f"%0{letter}", bare.zfill(len(text))
    for letter, text in words.items():
        yield f"%^{letter}", text.upper()

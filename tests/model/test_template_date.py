"""Chat templates print one fixed day: the one that transformers would print at its midnight."""

import locale
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from locale import LC_ALL
from pathlib import Path
from typing import Any

import pytest
from dated_templates import (
    CONSTANT,
    DATE_STRING,
    DATED,
    DAY,
    TOMORROW,
    set_clock_of_templates,
    set_today,
)
from tiny_models import CHAT_TEMPLATE, load_saved, save_tiny_model, tiny_tokenizer

from heretic.artifacts import read_json, write_json
from heretic.errors import HereticError, SettingsError
from heretic.model.chat import ChatFormat
from heretic.model.loading import model_facts
from heretic.model.template_date import (
    NUMBERS,
    STATE,
    read_chat,
    settle_date,
    today,
    with_fixed_date,
)
from heretic.prompts.prompt import Prompt

MIDNIGHT = datetime(DAY.year, DAY.month, DAY.day)  # as transformers has it
HI = Prompt("Hi")
# Of the C library; flags are for numbers and words.
LETTERS = "aAbBcCdDeFgGhHIjklmMnpPrRSStTuUVwWxXyYzZ%"
FLAGGED = [f"{flag}{letter}" for letter in f"{NUMBERS}Cegkl".replace("f", "") for flag in "-_0"]
FORMATS = [*(f"%{end}" for end in [*LETTERS, *FLAGGED, "^a", "^A", "^b", "^B", "^h"])]
FORMATS += [
    "",
    "plain",
    "%d %b %Y",
    "%Y-%m-%dT%H:%M:%S",
    "100%% %d%%d%%",
    "ends in %%",
    "%%%d",
    "é%d",
]
DAYS = [
    date(2024, 1, 1),
    date(2024, 2, 29),
    date(2021, 1, 3),
    date(1999, 12, 31),
    date(2030, 10, 6),
]


def formatted(format_text: str, day: date) -> str:
    template = "{{ strftime_now(messages[0]['content']) }}"
    chat = ChatFormat(tiny_tokenizer(template), template_date=day)
    return chat.render(Prompt(format_text))


@pytest.mark.parametrize("name", DATED)
def test_the_prompt_is_the_one_of_transformers_on_that_day(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokenizer = tiny_tokenizer(DATED[name])
    set_clock_of_templates(monkeypatch, MIDNIGHT)
    messages = [{"role": "user", "content": "Hi"}]
    own = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    set_clock_of_templates(monkeypatch, None)
    chat = ChatFormat(tokenizer, template_date=DAY)
    assert chat.render(HI) == own
    assert chat.prints_date
    assert ChatFormat(tokenizer, template_date=TOMORROW).render(HI) != own
    assert tokenizer.chat_template == DATED[name]  # which is saved with the model


@pytest.mark.parametrize("day", DAYS, ids=str)
def test_every_directive_is_that_of_the_c_library(day: date) -> None:
    midnight = datetime(day.year, day.month, day.day)
    for each in FORMATS:
        assert formatted(each, day) == midnight.strftime(each), each


def test_the_epoch_counts_from_midnight_in_utc() -> None:
    assert formatted("%s %f", date(1970, 1, 3)) == f"{2 * 86400} 000000"


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, CONSTANT])
def test_a_template_without_a_date_is_left_alone(template: str) -> None:
    """Also one that prints a constant, which everyone who uses the model sees."""
    one, other = (
        ChatFormat(tiny_tokenizer(template), template_date=day) for day in (DAY, TOMORROW)
    )
    assert not one.prints_date
    assert one.template_arguments == {}
    assert one.render(HI) == other.render(HI)


def test_what_is_read_from_the_template_depends_on_no_day() -> None:
    chat = ChatFormat(tiny_tokenizer(DATE_STRING), template_date=DAY)
    assert chat.traits.system == "shown"
    assert not chat.traits.user_parts
    assert chat.n_post_instruction_tokens == ChatFormat(tiny_tokenizer()).n_post_instruction_tokens


@contextmanager
def elsewhere(folder: Path, name: str) -> Iterator[None]:
    """This process with another language and time zone."""
    source, _, charset = name.partition(".")
    made = subprocess.run(
        ["localedef", "-i", source, "-f", charset, str(folder / name)], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip(f"no sources of the locale {name}")
    before, own = {key: os.environ.get(key) for key in ("LOCPATH", "TZ")}, locale.setlocale(LC_ALL)
    os.environ |= {"LOCPATH": str(folder), "TZ": "Pacific/Kiritimati"}  # 14 hours ahead of UTC
    time.tzset()
    try:
        locale.setlocale(LC_ALL, name)
        yield
    finally:
        locale.setlocale(LC_ALL, own)
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
        time.tzset()


def test_language_and_time_zone_do_not_matter(tmp_path: Path) -> None:
    here = [formatted(each, DAY) for each in [*FORMATS, "%s"]]
    day = today()
    with elsewhere(tmp_path, "de_DE.UTF-8"):
        assert MIDNIGHT.strftime("%B") == "Juli"
        assert [formatted(each, DAY) for each in [*FORMATS, "%s"]] == here
        assert today() == day


def test_the_date_of_a_run_is_settled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_today(monkeypatch, DAY)
    assert settle_date("auto", tmp_path) == "2024-07-04"
    set_today(monkeypatch, TOMORROW)
    assert settle_date("auto", tmp_path) == "2024-07-04"
    assert settle_date("2020-02-02", tmp_path) == "2020-02-02"
    # Changing the setting back gives the same prompts again.
    assert settle_date("auto", tmp_path) == "2024-07-04"
    assert settle_date("auto", tmp_path / "other run") == "2024-07-05"
    assert read_json(tmp_path / STATE) == {"template_date": "2024-07-04"}


def test_a_date_that_is_set_leaves_no_state(tmp_path: Path) -> None:
    assert settle_date("2020-02-02", tmp_path) == "2020-02-02"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("held", [{}, {"template_date": None}, {"template_date": "2024-13-01"}])
def test_a_damaged_state_is_one_line(tmp_path: Path, held: dict[str, Any]) -> None:
    write_json(tmp_path / STATE, held)
    with pytest.raises(HereticError, match=r"template_date\.json has no valid date.*template_date"):
        settle_date("auto", tmp_path)


def test_what_phases_read_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    write_json(path, {"response_prefix": "So", "template_date": "2024-07-04", "provenance": {}})
    assert read_chat(path) == {"response_prefix": "So", "template_date": "2024-07-04"}
    write_json(path, {"response_prefix": "So", "template_date": None, "provenance": {}})
    assert read_chat(path) == {"response_prefix": "So", "template_date": None}
    write_json(path, {"response_prefix": "So", "template_date": None, "dtype": "float32"})
    assert read_chat(path)["dtype"] == "float32"
    write_json(path, {"response_prefix": "So", "template_date": None, "dtype": "int8"})
    with pytest.raises(HereticError, match="holds no data type as dtype; delete it"):
        read_chat(path)
    write_json(path, {"response_prefix": "So", "provenance": {}})
    with pytest.raises(HereticError, match="holds no date as template_date; delete it"):
        read_chat(path)
    write_json(path, {"template_date": None})
    with pytest.raises(HereticError, match="holds no response_prefix; delete it"):
        read_chat(path)


def test_a_model_is_loaded_with_the_date_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_model(tmp_path)
    assert "template_date" not in model_facts(load_saved(folder))
    (folder / "chat_template.jinja").write_text(DATE_STRING)
    set_today(monkeypatch, TOMORROW)
    model = load_saved(folder, template_date="2024-07-04")
    assert "Today Date: 04 Jul 2024" in model.chat.render(HI)
    assert model_facts(model)["template_date"] == "2024-07-04"
    assert "Today Date: 05 Jul 2024" in load_saved(folder, template_date="auto").chat.render(HI)
    with pytest.raises(
        SettingsError, match="template_date = 'soon': expected a date in the form YYYY-MM-DD"
    ):
        load_saved(folder, template_date="soon")


def test_the_fixed_date_is_text_of_the_template() -> None:
    """So that whatever renders the template, in whatever process, prints the same."""
    fixed = with_fixed_date(DATE_STRING, DAY)
    assert fixed.endswith(DATE_STRING)
    assert fixed == with_fixed_date(DATE_STRING, DAY)

"""Text on the command line arrives as it was typed, or is refused."""

from typing import Any

import pytest
from snakemake.cli import parse_config

from heretic.errors import SettingsError
from heretic.settings.resolve import config_argument
from heretic.settings.typed_text import check_typed_text


def check(*typed: str) -> dict[str, Any]:
    parsed: dict[str, Any] = parse_config(list(typed))
    check_typed_text(["--cores", "1", "--config", *typed], parsed)
    return parsed


@pytest.mark.parametrize(
    "typed",
    [
        *("run_name=2026_11", "run_name=007", "run_name=1e3", "run_name=1.10"),
        *("model_revision=0123456", "response_prefix=trail ", "run_name= lead"),
        "response_prefix=<think>\n\n</think>\n\n",
        "response_prefix=!x",
        "response_prefix=Sure: I",
        'run_name="007"',
    ],
)
def test_text_that_yaml_changes_is_refused(typed: str) -> None:
    name = typed.partition("=")[0]
    with pytest.raises(SettingsError, match=f"arrives as .* HERETIC_{name.upper()}") as caught:
        check(typed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("run_name=2026", 2026),
        ("run_name=strong", "strong"),
        ("model=Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("template_date=2025-01-31", "2025-01-31"),
        ("device=cuda:0", "cuda:0"),
        ("upload_to=", None),
        ('run_name= "007" ', "007"),
        ("run_name='mine'", "mine"),
        ('model=["a/b", "c/d"]', ["a/b", "c/d"]),
        ("n_trials=1_000", 1000),  # a number
        ("objectives=kl_first_token,words", "kl_first_token,words"),
    ],
)
def test_other_values_pass(typed: str, value: object) -> None:
    assert check(typed)[typed.partition("=")[0]] == value


@pytest.mark.parametrize("text", ["007", "a\n\nb\n", " x ", '"quoted"', "Sure: I", "!x", "2026_11"])
def test_heretic_run_passes_any_text(text: str) -> None:
    assert check(config_argument("response_prefix", text)) == {"response_prefix": text}


def test_the_last_value_counts() -> None:
    check_typed_text(["run_name=007", "run_name=b"], {"run_name": "b"})
    check_typed_text(["run_name=007"], {})  # not a setting of this command

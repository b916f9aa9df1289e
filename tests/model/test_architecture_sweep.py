"""The table of architectures: a handful of its rows hold, and nothing that goes wrong stops it."""

import re
from pathlib import Path

import pytest
import transformers

import architecture_sweep as sweep_module
from architecture_sweep import (
    FAILED,
    IMAGES,
    MARKS,
    NOT_MADE,
    README,
    REFUSED,
    SUPPORTED,
    TEXT,
    Row,
    examine,
    sweep,
    table,
    write_between_marks,
)
from heretic.errors import ModelLoadError


def cells(model_type: str) -> list[str]:
    """A row of the table in the README."""
    text = README.read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| `{re.escape(model_type)}` \|.*\|$", text, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize(
    "model_type", ["llama", "qwen3_next", "gpt_oss", "gemma2", "falcon_h1", "llava"]
)
def test_supported_types_are_as_the_table_says(model_type: str) -> None:
    row = examine(model_type)

    assert [row.outcome, str(row.attention), str(row.mlp)] == cells(model_type)[:3]
    assert row.outcome == SUPPORTED
    assert row.left < 1e-6


@pytest.mark.parametrize("model_type", ["bert", "mamba", "deepseek_v4"])
def test_refused_types_are_as_the_table_says(model_type: str) -> None:
    row = examine(model_type)

    assert row.outcome == REFUSED
    assert f"{row.outcome}: {row.why}" == cells(model_type)[0]


def test_the_table_knows_every_type_of_the_installed_version() -> None:
    text = README.read_text(encoding="utf-8").partition(MARKS[0])[2]
    listed = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))

    if f"With transformers {transformers.__version__}.\n" in text:
        assert listed == TEXT | IMAGES
    assert "| failed" not in text


def test_no_type_that_is_supported_keeps_a_part_of_the_direction() -> None:
    text = README.read_text(encoding="utf-8")
    left = re.findall(r"\| supported \| \d+ \| \d+ \| (\S+) \|", text)

    assert len(left) > 100
    assert max(map(float, left)) < 1e-6


def crash(model_type: str) -> Row:
    import os

    if model_type == "one":
        os._exit(3)
    if model_type == "two":
        raise RuntimeError("a defect")
    return Row(model_type, REFUSED, "why")


def test_a_crash_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "examine", crash)

    rows = sweep(["one", "two", "three"])

    assert [row.outcome for row in rows] == [FAILED, FAILED, REFUSED]


def test_a_network_that_is_not_to_be_had_is_a_row() -> None:
    assert examine("no_such_type").outcome == NOT_MADE


def test_a_refusal_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise ModelLoadError("first\nsecond; this architecture is not supported")

    monkeypatch.setattr(sweep_module, "find_stream_writers", refuse)

    assert examine("llama") == Row("llama", REFUSED, "first second")


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"above\n{MARKS[0]}\nold\n{MARKS[1]}\nbelow\n", encoding="utf-8")
    text = table([Row("llama", SUPPORTED, "", 4, 4, 3e-16), Row("bert", REFUSED, "a | b")])

    write_between_marks(path, text)
    write_between_marks(path, text)

    written = path.read_text(encoding="utf-8")
    assert written.startswith("above\n")
    assert written.endswith("below\n")
    assert "old" not in written
    assert "| `llama` | supported | 4 | 4 | 3e-16 |" in written
    assert "| `bert` | refused: a / b |" in written
    assert f"With transformers {transformers.__version__}." in written
    assert "Of 2 model types of `AutoModelForCausalLM`, 1 are supported, 1 refused" in written

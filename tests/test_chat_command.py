"""Which model an edited one is compared with."""

import io
import logging
from pathlib import Path

import pytest
import torch
from dated_templates import DAY, TOMORROW, WITH_TIME, record_rendered, set_today
from edit_fixtures import export, plan
from safetensors.torch import save_file
from tiny_models import CHAT_TEMPLATE, save_tiny_model

from heretic.artifacts import write_json
from heretic.commands.chat import converse
from heretic.errors import ModelLoadError
from heretic.export.base_model import edited_demo_model
from heretic.model.checkpoint import source_facts
from heretic.settings.schema import Settings


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for number, name in enumerate(("demo", "demo-model", "demo-model-seed1")):
        (tmp_path / name).mkdir()
        save_file(
            {"weight": torch.full((2,), float(number))}, tmp_path / name / "model.safetensors"
        )
    (tmp_path / "demo-model.manifest.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(("template", "told"), [(WITH_TIME, True), (CHAT_TEMPLATE, False)])
def test_the_date_of_the_run_is_told_where_it_is_not_todays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    template: str,
    told: bool,
) -> None:
    run, day = tmp_path / "run", DAY.isoformat() if told else None
    base = save_tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text(template)
    export(plan(base), base, run / "model", low_memory=True)
    write_json(run / "chat.json", {"response_prefix": "", "template_date": day})
    rendered = record_rendered(monkeypatch)
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    caplog.set_level(logging.INFO, "heretic")
    for today in (DAY, TOMORROW):
        set_today(monkeypatch, today)
        monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
        caplog.clear()
        converse(run / "model", run, Settings(device="cpu"), compare=True, max_new_tokens=2)
        notice = "prints the date of the run, 2024-07-04, not today's" in caplog.text
        assert notice is (told and today == TOMORROW)
    assert rendered
    assert all(("now 00:00:00 on Thu Jul  4" in text) is told for text in rendered)


def sha256(folder: Path) -> str:
    return str(source_facts("demo", None, folder)["sha256"])


@pytest.mark.parametrize("name", ["demo-model", "demo-model-seed1"])
def test_the_demo_model_is_found_by_its_weights(results: Path, name: str) -> None:
    assert edited_demo_model([results], sha256(results / name)) == results / name


def test_a_demo_model_that_is_gone_is_an_error(results: Path) -> None:
    with pytest.raises(ModelLoadError, match="rerun the workflow"):
        edited_demo_model([results], sha256(results / "demo"))


@pytest.mark.parametrize(
    ("response", "shown", "warns"),
    [
        ("<think>Hm</think>\n\nHi", "Hi\n", False),
        ("<think>Hm", "<think>Hm\n", True),
        (" Hi\n", " Hi\n\n", False),
    ],
)
def test_thoughts_are_not_shown_before_an_answer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    response: str,
    shown: str,
    warns: bool,
) -> None:
    run, base = tmp_path / "run", save_tiny_model(tmp_path / "base")
    export(plan(base), base, run / "model", low_memory=True)
    write_json(run / "chat.json", {"response_prefix": "", "template_date": None})
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    monkeypatch.setattr("heretic.commands.chat.decode", lambda *_: [response])
    converse(run / "model", run, Settings(device="cpu"), compare=False, max_new_tokens=2)
    assert capsys.readouterr().out == shown
    assert ("raise --max-tokens" in caplog.text) is warns

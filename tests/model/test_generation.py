"""What a checkpoint recommends for generating decides nothing, and never stops an export."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny_models import PROMPTS, load_saved, save_tiny_model

from heretic.export.merged import save_model
from heretic.model.decoding import generate
from heretic.model.generation import FILE

UNUSABLE = "is not used, but copied unchanged to the saved model"


@pytest.mark.parametrize(
    ("recommended", "usable"),
    [
        ({"num_beams": 100_000}, True),
        ({"repetition_penalty": 5.0}, True),
        ({"stop_strings": ["a"]}, True),
        ({"penalty_alpha": 0.6}, True),
        ({"token_healing": True}, True),
        ({"cache_implementation": "static"}, True),
        ({"num_return_sequences": 5}, False),
        ({"temperature": "x"}, False),
        ({"eos_token_id": "x"}, False),
        ([], False),
        ("{", False),
    ],
)
def test_answers_and_exports_are_those_of_any_other_model(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    recommended: Any,
    usable: bool,
) -> None:
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    expected = generate(load_saved(save_tiny_model(tmp_path / "plain")), PROMPTS, 5)
    folder = save_tiny_model(tmp_path / "model")
    if isinstance(recommended, dict):
        recommended = {"eos_token_id": 1, "pad_token_id": 0, **recommended}
    text = recommended if isinstance(recommended, str) else json.dumps(recommended)
    (folder / FILE).write_text(text)

    with caplog.at_level(logging.WARNING, "heretic"):
        model = load_saved(folder)
    assert (UNUSABLE in caplog.text) is not usable
    assert generate(model, PROMPTS, 5) == expected
    save_model(model, tmp_path / "saved", "5GB", {"chat_template": None}, set())
    assert (tmp_path / "saved" / FILE).read_text() == text

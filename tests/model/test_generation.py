"""What a checkpoint recommends for generating decides nothing, and never stops an export."""

import json
import logging
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from tiny_models import PROMPTS, load_saved, save_tiny_model

from heretic.benchmarks.lm_eval_model import HarnessModel
from heretic.export.merged import save_model
from heretic.model.decoding import end_tokens, generate
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
        ({"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.1, "min_p": 0.9}, True),
        ({"forced_bos_token_id": 7}, True),
        ({"forced_eos_token_id": 7}, True),
        ({"suppress_tokens": list(range(60, 200))}, True),
        ({"begin_suppress_tokens": list(range(60, 200))}, True),
        ({"bad_words_ids": [[n] for n in range(60, 200)]}, True),
        ({"sequence_bias": [[[9], 100.0]]}, True),
        ({"min_length": 100}, True),
        ({"min_new_tokens": 100}, True),
        ({"max_length": 3}, True),
        ({"max_new_tokens": 1}, True),
        ({"max_time": 1e-9}, True),
        ({"no_repeat_ngram_size": 1}, True),
        ({"exponential_decay_length_penalty": [1, 9.0]}, True),
        ({"guidance_scale": 3.0}, True),
        ({"renormalize_logits": True, "use_cache": False}, True),
        ({"prompt_lookup_num_tokens": 3}, True),
        ({"return_dict_in_generate": True}, True),
        ({"max_new_tokens": -1}, False),
        ({"num_return_sequences": 3}, False),
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


@pytest.mark.parametrize("further", [{}, {"repetition_penalty": 5.0}, {"num_return_sequences": 3}])
def test_every_end_token_ends_an_answer(tmp_path: Path, further: dict[str, Any]) -> None:
    """Even if other recommendations make the file unusable."""
    expected = generate(load_saved(save_tiny_model(tmp_path)), PROMPTS, 8)
    ends = [1, expected[0][2], expected[1][3]]
    (tmp_path / FILE).write_text(json.dumps({"eos_token_id": ends, **further}))

    model = load_saved(tmp_path)

    assert end_tokens(model) == set(ends)
    cut = [list(takewhile(lambda token: token not in ends, answer)) for answer in expected]
    assert generate(model, PROMPTS, 8) == cut != expected


@pytest.mark.parametrize("end", ["x", -1, [1, None], True])
def test_end_tokens_of_the_configuration_replace_invalid_ones(tmp_path: Path, end: Any) -> None:
    save_tiny_model(tmp_path, eos_token_id=7)
    (tmp_path / FILE).write_text(json.dumps({"eos_token_id": end}))
    assert end_tokens(load_saved(tmp_path)) == {1, 7}  # the tokenizer's as well


@pytest.mark.parametrize(
    "recommended",
    [
        {"repetition_penalty": 5.0},
        {"suppress_tokens": list(range(60, 200))},
        {"forced_bos_token_id": 7},
        {"min_new_tokens": 100},
        {"max_new_tokens": 1},
        {"do_sample": True, "temperature": 5.0},
        {"num_return_sequences": 3},
    ],
)
def test_benchmarks_ignore_recommendations(tmp_path: Path, recommended: dict[str, Any]) -> None:
    def answers(folder: Path) -> list[str]:
        harness = HarnessModel(load_saved(folder))
        options = {"until": ["<|never|>"], "max_gen_toks": 6}
        texts = [harness.apply_chat_template([{"role": "user", "content": "What?"}]), "How do I"]
        requests = [Instance("generate_until", {}, (text, options), 0) for text in texts]
        found: list[str] = harness.generate_until(requests, True)
        return found

    expected = answers(save_tiny_model(tmp_path))
    (tmp_path / FILE).write_text(json.dumps({"eos_token_id": 1, "pad_token_id": 0, **recommended}))
    assert answers(tmp_path) == expected

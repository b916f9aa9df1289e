"""Any two models under one protocol: the prefix, the tokens, and what is left out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from dated_templates import DAY, WITH_TIME
from tiny_models import PROMPTS, VOCABULARY, tiny_model, tiny_tokenizer

from heretic.evaluation.comparison import Asked, Vocabulary, compare_models
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.model.chat import ChatFormat
from heretic.model.decoding import decode, generate
from heretic.model.loading import Model
from heretic.model.response_prefix import find_response_prefix
from heretic.scoring.scorer_set import make_scorer_set

torch.set_num_threads(1)
LENGTH = 5
PROTOCOL = HoldoutProtocol(LENGTH, kl_tokens=3, bootstrap_samples=100, seed=0)
SETS = HoldoutSets(good=PROMPTS[:2], bad=PROMPTS[2:4])
DIVERGENCES = {"kl_first_token", "kl_teacher_forced"}


def answers_with(prefix: str, model: Model) -> list[str]:
    asked = replace(model, chat=replace(model.chat, response_prefix=prefix))
    return decode(asked, generate(asked, SETS.all, LENGTH))


def test_both_models_answer_after_one_prefix() -> None:
    one, other = tiny_model(seed=1), tiny_model(seed=2)
    found, asked = compare_models(lambda: one, lambda: other, SETS, PROTOCOL, "Well, ")
    assert asked == Asked("Well, ", template_date=None)
    assert [line["original"] for line in found.answers] == answers_with("Well, ", one)
    assert [line["edited"] for line in found.answers] == answers_with("Well, ", other)
    assert found.table["original"]["kl_first_token"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    assert found.table["edited"]["kl_first_token"]["mean"] > 0.01


def test_the_prefix_is_found_on_the_original() -> None:
    one, other = tiny_model(seed=1), tiny_model(seed=2)
    _, asked = compare_models(lambda: one, lambda: other, SETS, PROTOCOL, "auto")
    assert asked.response_prefix == find_response_prefix(one, SETS.good, SETS.bad)


@pytest.mark.parametrize("dated", [0, 1])
def test_the_date_in_the_prompts_is_told_where_one_model_prints_it(dated: int) -> None:
    models = [tiny_model(seed=1), tiny_model(seed=2)]
    tokenizer = tiny_tokenizer(WITH_TIME)
    models[dated].chat = ChatFormat(tokenizer, template_date=DAY)
    _, asked = compare_models(lambda: models[0], lambda: models[1], SETS, PROTOCOL, "")
    assert asked.template_date == "2024-07-04"


def test_a_model_does_not_differ_from_itself() -> None:
    model = tiny_model()
    found, _ = compare_models(lambda: model, lambda: model, SETS, PROTOCOL, "")
    assert found.table["edited"] == found.table["original"]
    assert {test["p_value"] for test in found.table["paired"].values()} == {1.0}


def test_other_tokens_are_compared_without_divergences() -> None:
    one, other = tiny_model(), tiny_model(vocab_size=VOCABULARY + 8)
    further: list[dict[str, Any]] = [
        {"scorer": "kl_teacher_forced", "name": "kl_of_two", "settings": {"tokens": 2}},
        {"scorer": "words", "name": None, "settings": {}},
    ]
    protocol = replace(PROTOCOL, scorer_set=make_scorer_set(["core"], further))
    found, _ = compare_models(lambda: one, lambda: other, SETS, protocol, "")
    for row in (found.table["original"], found.table["edited"]):
        assert row["refusals"]["total"] == 2
        assert not DIVERGENCES & row.keys()
        # Nor the scores that compare predictions.
        assert row["scores"].keys() == {"words"}
    same, _ = compare_models(lambda: one, lambda: tiny_model(seed=2), SETS, protocol, "")
    assert same.table["edited"]["scores"]["kl_of_two"]["value"] > 0
    assert len(found.answers) == 4


@pytest.mark.parametrize(
    ("width", "tokens", "agree"),
    [
        (9, {0: "a", 1: "b"}, True),
        (9, {0: "a", 1: "b", 5: "<pad>"}, True),  # what the other one's tokenizer never gives
        (9, {0: "b", 1: "a"}, False),
        (8, {0: "a", 1: "b"}, False),
    ],
)
def test_numbers_of_tokens_mean_the_same(width: int, tokens: dict[int, str], agree: bool) -> None:
    assert Vocabulary(9, {0: "a", 1: "b"}).agrees(Vocabulary(width, tokens)) is agree
    assert Vocabulary(width, tokens).agrees(Vocabulary(9, {0: "a", 1: "b"})) is agree

"""A trial's scores on a real tiny model."""

import math
from typing import Any

import pytest
import torch
from tiny_models import PROMPTS, tiny_model

from heretic.ablation.linalg import normalize
from heretic.ablation.plan import Edit
from heretic.ablation.weight_editor import WeightEditor, original_weights
from heretic.engine import evaluator as module
from heretic.engine.base import FeasibilityLimits
from heretic.engine.evaluator import Evaluator
from heretic.model.decoding import decode, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scoring import ScoredPrompts
from heretic.scoring.degenerate import is_degenerate
from heretic.scoring.log_odds import RefusalTokens
from heretic.scoring.refusal_markers import RefusalMarkers
from heretic.scoring.scorer_set import make_scorer_set

torch.set_num_threads(1)
GOOD, BAD = PROMPTS[:3], [*PROMPTS[3:], Prompt("How do I make a glass soup?")]
LENGTH = 6
MARKERS = RefusalMarkers()


@pytest.fixture
def model() -> Model:
    return tiny_model(batch_size=2)


def edit(model: Model, strength: float, length: float = 1.0) -> WeightEditor:
    """Edit every writer along one random direction."""
    draw = torch.Generator().manual_seed(5)
    directions = length * normalize(torch.randn(1, model.anatomy.d_model, generator=draw))
    editor = WeightEditor(model, original_weights(model, "true"), "none")
    editor.abliterate([Edit(writer, directions, (strength,)) for writer in model.anatomy.writers])
    return editor


def naive_kl(model: Model, originals: list[torch.Tensor]) -> float:
    """Mean KL of the next token, one prompt at a time, in float64."""
    total = 0.0
    for prompt, original in zip(GOOD, originals, strict=True):
        p, q = original, next_token(model, prompt)
        total += float((p.exp() * (p - q)).sum())
    return total / len(GOOD)


def next_token(model: Model, prompt: Prompt) -> torch.Tensor:
    ids = torch.tensor(model.chat.encode([prompt]))
    with torch.no_grad():
        logits: torch.Tensor = model.network(ids).logits
    return logits[0, -1].double().log_softmax(-1)


def test_the_original_has_no_divergence_from_itself(model: Model) -> None:
    scores = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH).evaluate(FeasibilityLimits(1e-9))
    assert scores["kl_first_token"] == 0.0
    assert scores["unanswered"] is not None


def test_an_edit_is_scored_against_the_original(model: Model) -> None:
    evaluator = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH)
    originals = [next_token(model, prompt) for prompt in GOOD]
    editor = edit(model, 1.0)
    scores = evaluator.evaluate()
    assert scores["kl_first_token"] > 1e-4
    assert scores["kl_first_token"] == pytest.approx(naive_kl(model, originals), rel=1e-3)
    editor.restore()
    assert evaluator.evaluate()["kl_first_token"] == 0.0


def test_answers_are_counted_by_class(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ["I cannot help with that.", "", "Boil it."]
    good = ["Bake it.", "I'm sorry, but no.", "I won't say."]
    # Only the words are given: a random model has none.
    monkeypatch.setattr(module, "decode", lambda model, answers: good + bad)
    scores = dict(Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH).evaluate())
    del scores["refusal_log_odds"]
    assert scores == {
        "kl_first_token": 0.0,
        "refusals": 1,
        "degenerate": 1,
        "unanswered": 2,
        "false_refusals": 2,
    }


def test_right_answers_are_counted_where_they_are_known(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [Prompt(prompt.text, answers=("red",)) for prompt in BAD]
    answers = ["Red.", "I cannot say red.", "It is blue.", "red", "red", "red"]
    monkeypatch.setattr(module, "decode", lambda model, tokens: answers)
    scores = Evaluator(model, ScoredPrompts(known, GOOD), LENGTH).evaluate()
    assert scores["kept"] == 1
    assert "recovered" not in scores
    swapped = Evaluator(model, ScoredPrompts(GOOD, known), LENGTH).evaluate()
    assert swapped["recovered"] == 3
    assert "kept" not in swapped


def test_a_looping_refusal_is_unanswered_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decode", lambda model, answers: ["I cannot. " * 20] * len(answers))
    scores = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH).evaluate()
    assert [scores[name] for name in ("refusals", "degenerate", "unanswered")] == [3, 0, 3]


def test_log_odds_of_refusals_are_those_of_the_first_tokens(model: Model) -> None:
    evaluator = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH)
    first = [next_token(model, prompt) for prompt in (*GOOD, *BAD)]
    likeliest = [int(row.argmax()) for row in first]
    tokens = RefusalTokens.of(likeliest[:3], likeliest[3:])
    assert set(tokens.ids) <= set(likeliest[3:])
    odds = []
    for row in first[3:]:
        share = float(row.exp()[list(tokens.ids)].sum())
        odds.append(math.log(share / (1 - share)))
    assert evaluator.evaluate()["refusal_log_odds"] == pytest.approx(sum(odds) / 3, rel=1e-4)


def test_tokens_of_refusals_are_more_frequent_after_bad_prompts() -> None:
    assert RefusalTokens.of([1, 2, 2], [1, 3, 3, 4]).ids == (3, 4)
    assert RefusalTokens.of([1, 2], [1, 1]).ids == (1,)
    assert RefusalTokens.of([1, 1], [1, 1, 1]).ids == ()
    # What begins compliance is as frequent after good prompts, or begins a single answer.
    to, here, first_person, once = 1, 2, 3, 4
    found = RefusalTokens.of([to] * 48 + [here] * 52, [first_person] * 50 + [to] * 49 + [once])
    assert found.ids == (first_person,)
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    share = logits.double().softmax(-1)[:, [3, 4]].sum(-1)
    odds = RefusalTokens((3, 4)).log_odds(logits)
    torch.testing.assert_close(odds.double(), (share / (1 - share)).log(), rtol=1e-5, atol=1e-5)
    # Suppressed tokens, and a probability that rounds to one.
    sure = torch.tensor([[-torch.inf, 80.0, -20.0]])
    assert RefusalTokens((1,)).log_odds(sure).tolist() == [100.0]


def test_further_scores_are_measured_by_passes(model: Model) -> None:
    texts = [Prompt("Grey stones lie in the river."), Prompt("Rain.")]
    scorers: list[dict[str, Any]] = [
        {"scorer": "kl_teacher_forced", "name": None, "settings": {"tokens": 4}},
        {"scorer": "perplexity", "name": "prose", "settings": {}},
    ]
    scorer_set = make_scorer_set(["core"], scorers)
    evaluator = Evaluator(model, ScoredPrompts(GOOD, BAD, texts), LENGTH, scorer_set)
    before = evaluator.evaluate()
    assert before["kl_teacher_forced"] == 0.0
    assert before["prose"] == pytest.approx(naive_perplexity(model, texts), rel=1e-4)
    answers = generate(model, GOOD, 4)
    rows = [answer_log_probabilities(model, *pair) for pair in zip(GOOD, answers, strict=True)]
    editor = edit(model, 1.0)
    after = evaluator.evaluate(FeasibilityLimits(0.0))  # also where nothing is generated
    edited = [answer_log_probabilities(model, *pair) for pair in zip(GOOD, answers, strict=True)]
    means = [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(rows, edited, strict=True)]
    assert after["kl_teacher_forced"] == pytest.approx(sum(means) / 3, rel=1e-3)
    assert after["prose"] == pytest.approx(naive_perplexity(model, texts), rel=1e-4)
    assert after["prose"] != before["prose"]
    editor.restore()
    assert evaluator.evaluate() == before


def answer_log_probabilities(model: Model, prompt: Prompt, answer: list[int]) -> torch.Tensor:
    """Distributions before each token of an answer [tokens, vocabulary], in float64."""
    ids = torch.tensor([model.chat.encode([prompt])[0] + answer])
    with torch.no_grad():
        logits: torch.Tensor = model.network(ids).logits
    return logits[0, -len(answer) - 1 : -1].double().log_softmax(-1)


def naive_perplexity(model: Model, texts: list[Prompt]) -> float:
    """One text at a time, in float64."""
    total = 0.0
    for text in texts:
        ids = torch.tensor([model.chat.tokenizer(text.text)["input_ids"]])
        with torch.no_grad():
            rows = model.network(ids).logits[0, :-1].double().log_softmax(-1)
        total -= float(rows.gather(-1, ids[0, 1:, None]).mean())
    return math.exp(total / len(texts))


def test_scores_are_those_of_the_models_own_greedy_answers(model: Model) -> None:
    scores = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH).evaluate()
    answers = decode(model, generate(model, BAD, LENGTH))
    pairs = list(zip(BAD, answers, strict=True))
    assert scores["refusals"] == sum(MARKERS.found(answer) for answer in answers)
    broken = [pair for pair in pairs if is_degenerate(*pair) and not MARKERS.found(pair[1])]
    assert scores["degenerate"] == len(broken)
    assert scores["unanswered"] == scores["refusals"] + scores["degenerate"]


def test_too_far_is_not_generated_for(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH)
    edit(model, 1.0)
    whole = evaluator.evaluate()
    kl = whole["kl_first_token"]

    def never(*_: object) -> None:
        raise AssertionError("generated")

    monkeypatch.setattr(module, "generate", never)
    assert evaluator.evaluate(FeasibilityLimits(0.99 * kl)) == {
        name: kl if name == "kl_first_token" else None for name in whole
    }
    with pytest.raises(AssertionError, match="generated"):
        evaluator.evaluate(FeasibilityLimits(1.01 * kl))


def test_weights_that_overflow_are_too_far(model: Model) -> None:
    evaluator = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH)
    editor = edit(model, 1e38, length=1e30)
    scores = evaluator.evaluate(FeasibilityLimits(1e30))
    assert not math.isfinite(scores["kl_first_token"])
    assert scores["unanswered"] is None
    editor.restore()
    assert evaluator.evaluate(FeasibilityLimits(1.0))["kl_first_token"] == 0.0

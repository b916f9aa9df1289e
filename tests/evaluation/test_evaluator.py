"""A trial's scores on a real tiny model."""

import math

import pytest
import torch
from tiny_models import PROMPTS, tiny_model

from heretic.ablation.editor import WeightEditor, pristine_weights
from heretic.ablation.plan import Edit
from heretic.ablation.vectors import normalize
from heretic.evaluation import evaluator as module
from heretic.evaluation.evaluator import Evaluator
from heretic.evaluation.scorers import is_degenerate, is_refusal
from heretic.evaluation.trial_scores import TrialScores
from heretic.model.decoding import decode, generate
from heretic.model.loading import Model
from heretic.prompts import Prompt

torch.set_num_threads(1)
GOOD, BAD = PROMPTS[:3], [*PROMPTS[3:], Prompt("How do I make a glass soup?")]
LENGTH = 6


@pytest.fixture
def model() -> Model:
    return tiny_model(batch_size=2)


def edit(model: Model, strength: float, length: float = 1.0) -> WeightEditor:
    """Edit every writer along one random direction."""
    draw = torch.Generator().manual_seed(5)
    directions = length * normalize(torch.randn(1, model.anatomy.d_model, generator=draw))
    editor = WeightEditor(model, pristine_weights(model, "true"), "none")
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
    scores = Evaluator(model, GOOD, BAD, LENGTH).evaluate(max_kl=1e-9)
    assert scores.kl_first_token == 0.0
    assert scores.unanswered is not None


def test_an_edit_is_scored_against_the_original(model: Model) -> None:
    evaluator = Evaluator(model, GOOD, BAD, LENGTH)
    originals = [next_token(model, prompt) for prompt in GOOD]
    editor = edit(model, 1.0)
    scores = evaluator.evaluate()
    assert scores.kl_first_token > 1e-4
    assert scores.kl_first_token == pytest.approx(naive_kl(model, originals), rel=1e-3)
    editor.restore()
    assert evaluator.evaluate().kl_first_token == 0.0


def test_answers_are_counted_by_class(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ["I cannot help with that.", "", "Boil it."]
    good = ["Bake it.", "I'm sorry, but no.", "I won't say."]
    # Only the words are given: a random model has none.
    monkeypatch.setattr(module, "decode", lambda model, answers: bad + good)
    assert Evaluator(model, GOOD, BAD, LENGTH).evaluate() == TrialScores(
        kl_first_token=0.0, refusals=1, degenerate=1, unanswered=2, false_refusals=2
    )


def test_a_looping_refusal_is_unanswered_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decode", lambda model, answers: ["I cannot. " * 20] * len(answers))
    scores = Evaluator(model, GOOD, BAD, LENGTH).evaluate()
    assert (scores.refusals, scores.degenerate, scores.unanswered) == (3, 0, 3)


def test_scores_are_those_of_the_models_own_greedy_answers(model: Model) -> None:
    scores = Evaluator(model, GOOD, BAD, LENGTH).evaluate()
    answers = decode(model, generate(model, BAD, LENGTH))
    pairs = list(zip(BAD, answers, strict=True))
    assert scores.refusals == sum(is_refusal(*pair) for pair in pairs)
    broken = [pair for pair in pairs if is_degenerate(*pair) and not is_refusal(*pair)]
    assert scores.degenerate == len(broken)
    assert scores.to_dict()["unanswered"] == scores.unanswered


def test_too_far_is_not_generated_for(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(model, GOOD, BAD, LENGTH)
    edit(model, 1.0)
    kl = evaluator.evaluate().kl_first_token

    def never(*_: object) -> None:
        raise AssertionError("generated")

    monkeypatch.setattr(module, "generate", never)
    assert evaluator.evaluate(max_kl=0.99 * kl) == TrialScores(kl, None, None, None, None)
    with pytest.raises(AssertionError, match="generated"):
        evaluator.evaluate(max_kl=1.01 * kl)


def test_weights_that_overflow_are_too_far(model: Model) -> None:
    evaluator = Evaluator(model, GOOD, BAD, LENGTH)
    editor = edit(model, 1e38, length=1e30)
    scores = evaluator.evaluate(max_kl=1e30)
    assert not math.isfinite(scores.kl_first_token)
    assert scores.unanswered is None
    editor.restore()
    assert evaluator.evaluate(max_kl=1.0).kl_first_token == 0.0

"""Predictions of the held-out table along the original's responses, against a naive reference."""

import pytest
import torch
from tiny_models import PROMPTS, tiny_model

from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.measurement import ColumnScore, measure, record_original
from heretic.evaluation.predictions import forced_responses
from heretic.model.decoding import generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scoring import Score
from heretic.scoring.teacher_forced import TeacherForcedKl

torch.set_num_threads(1)
SETS = HoldoutSets(good=PROMPTS[:2], bad=PROMPTS[2:4])
PROTOCOL = HoldoutProtocol(max_response_length=5, kl_tokens=3, bootstrap_samples=100, seed=0)


def naive(model: Model, prompt: Prompt, response: list[int]) -> torch.Tensor:
    """Log-probabilities before each token of a response [tokens, vocabulary], in float64."""
    ids = torch.tensor([model.chat.encode([prompt])[0] + response])
    with torch.no_grad():
        logits: torch.Tensor = model.network(ids).logits
    return logits[0, -len(response) - 1 : -1].double().log_softmax(-1)


def test_both_divergences_are_those_along_the_originals_first_tokens() -> None:
    one, other = tiny_model(seed=1), tiny_model(seed=2)
    original = record_original(one, SETS, PROTOCOL)
    found = measure(other, SETS, original, PROTOCOL, "other").columns
    by_token = []
    for prompt, response in zip(SETS.good, generate(one, SETS.good, 5), strict=True):
        assert len(response) >= 3
        p, q = (naive(model, prompt, response[:3]) for model in (one, other))
        by_token.append((p.exp() * (p - q)).sum(-1).tolist())
    first, forced = found["kl_first_token"], found["kl_teacher_forced"]
    assert first.score.details == pytest.approx([row[0] for row in by_token], rel=1e-3)
    assert forced.score.details == pytest.approx([sum(row) / 3 for row in by_token], rel=1e-3)
    assert first.indices == forced.indices == (2, 3)
    for name in ("kl_first_token", "kl_teacher_forced"):
        assert original.measurement.columns[name].score.details == (0.0, 0.0)


def test_a_response_is_followed_as_far_as_a_scorer_of_its_side_reads_it() -> None:
    tokens = [[1, 2, 3, 4]] * 4
    assert forced_responses([TeacherForcedKl(3), TeacherForcedKl(2)], SETS, tokens) == {
        "bad": [[], []],
        "good": [[1, 2, 3]] * 2,
    }
    both = [TeacherForcedKl(1, side="both"), TeacherForcedKl(2, side="bad")]
    assert forced_responses(both, SETS, tokens) == {"bad": [[1, 2]] * 2, "good": [[1]] * 2}


def test_details_are_known_for_the_prompts_of_a_column_only() -> None:
    score = Score.of("kept", "maximize", [1, 0], counts=True)
    column = ColumnScore(score, (3, 5))
    assert column.details([5, 3]) == [0, 1]
    assert column.details([3, 4]) is None
    assert column.details([]) == []
    # Details of texts belong to no prompt.
    assert ColumnScore(score, ()).details([0]) is None

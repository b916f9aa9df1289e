"""KL divergence against a naive reference in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

from heretic.metrics import ScoreRange
from heretic.scoring import FirstTokens
from heretic.scoring.kl_divergence import FirstTokenKl, kl_divergence
from heretic.scoring.teacher_forced import TeacherForcedKl

torch.set_num_threads(1)


def naive(original: list[float], edited: list[float]) -> float:
    """sum p log(p / q) from logits, in float64, term by term."""

    def probabilities(logits: list[float]) -> list[float]:
        top = max(logits)
        weights = [math.exp(logit - top) for logit in logits]
        return [weight / math.fsum(weights) for weight in weights]

    pairs = zip(probabilities(original), probabilities(edited), strict=True)
    terms = [
        (p * (math.log(p) - math.log(q)) if q > 0 else math.inf) if p > 0 else 0.0 for p, q in pairs
    ]
    return math.fsum(terms)


def ours(original: list[float], edited: list[float]) -> float:
    pair = [log_softmax(torch.tensor(logits), dim=-1) for logits in (original, edited)]
    return float(kl_divergence(*pair))


logits = st.floats(-20, 20, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(logits, logits), min_size=2, max_size=40))
def test_against_the_naive_reference(pairs: list[tuple[float, float]]) -> None:
    original, edited = [list(side) for side in zip(*pairs, strict=True)]
    found = ours(original, edited)
    assert found >= 0
    assert found == pytest.approx(naive(original, edited), rel=1e-4, abs=1e-5)


def test_suppressed_tokens_count_nothing() -> None:
    original, edited = [1.0, 2.0, -math.inf, 0.5], [0.0, 2.5, -math.inf, 1.0]
    assert ours(original, edited) == pytest.approx(naive(original, edited), rel=1e-5)
    # Suppressed in the original only: the edited model wastes probability there.
    edited[2] = 1.0
    assert ours(original, edited) == pytest.approx(naive(original, edited), rel=1e-5)


def test_what_the_original_says_and_the_edited_model_never_is_infinite() -> None:
    assert ours([1.0, 2.0], [1.0, -math.inf]) == math.inf


def test_the_order_of_the_models_matters() -> None:
    original, edited = [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    assert ours(original, edited) == pytest.approx(naive(original, edited), rel=1e-5)
    assert abs(ours(original, edited) - ours(edited, original)) > 0.1


def test_a_model_has_no_divergence_from_itself() -> None:
    same = log_softmax(torch.randn(5, 300, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert kl_divergence(same, same).tolist() == [0.0] * 5


def test_no_number_stays_no_number() -> None:
    broken = torch.full((4,), float("nan"))
    assert math.isnan(float(kl_divergence(torch.full((4,), -math.log(4)), broken)))


def test_first_token_and_mean_over_tokens() -> None:
    draw = torch.Generator().manual_seed(0)
    original = [log_softmax(torch.randn(n, 7, generator=draw), -1) for n in (3, 1)]
    edited = [log_softmax(torch.randn(n, 7, generator=draw), -1) for n in (3, 1)]
    by_token = [
        [naive(o.tolist(), e.tolist()) for o, e in zip(*pair, strict=True)]
        for pair in zip(original, edited, strict=True)
    ]
    scorer = FirstTokenKl()
    first = [torch.stack([rows[0] for rows in some]) for some in (original, edited)]
    measure = scorer.prepare(lambda side: pytest.fail("not needed"))
    values = measure(FirstTokens(first[1], first[0], normalized=True))
    assert values.tolist() == pytest.approx([row[0] for row in by_token], abs=1e-6)
    # Logits, up to a constant per prompt, give the same.
    shifted = measure(FirstTokens(first[1] + torch.tensor([[3.0], [-5.0]]), first[0]))
    torch.testing.assert_close(shifted, values)
    score = scorer.score(values)
    assert score.details == tuple(values.tolist())
    assert score.value == sum(score.details) / 2
    means = [sum(row) / len(row) for row in by_token]
    assert TeacherForcedKl(3).compare(original, edited) == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize("scorer", [FirstTokenKl(), TeacherForcedKl(3)])
def test_the_scale_of_a_divergence_ends_at_the_limit(
    scorer: FirstTokenKl | TeacherForcedKl,
) -> None:
    assert scorer.span(0.0, 64, 0.7) == ScoreRange(0.0, 0.7)
    assert (scorer.direction, scorer.side, scorer.needs_same_tokens) == ("minimize", "good", True)

"""Scores of the first response token, collected over batches in any order."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from heretic.metrics import ScoreRange
from heretic.prompts.prompt import Prompt
from heretic.scoring import FirstTokens, FirstTokenScorer, ScoredPrompts, Side
from heretic.scoring.first_token_scores import (
    FirstTokenScorers,
    FirstTokenScores,
    original_sides,
)
from heretic.scoring.kl_divergence import FirstTokenKl, kl_divergence
from heretic.scoring.log_odds import RefusalLogOdds, RefusalTokens

torch.set_num_threads(1)
VOCABULARY = 11
PROMPTS = ScoredPrompts([Prompt("g")] * 4, [Prompt("b")] * 3)
FIRST: dict[Side, list[int]] = {"good": [1, 1, 1, 1], "bad": [2, 2, 1]}
DRAW = torch.Generator().manual_seed(2)
ROWS: dict[str, torch.Tensor] = {
    side: torch.randn(2, count, VOCABULARY, generator=DRAW).log_softmax(-1)
    for side, count in (("good", 4), ("bad", 3))
}


def prepared(*scorers: FirstTokenScorer, first: Any = FIRST) -> FirstTokenScorers:
    return FirstTokenScorers(scorers, PROMPTS, first.__getitem__)


def tokens(side: Side, places: Sequence[int]) -> FirstTokens:
    original, edited = ROWS[side][:, list(places)]
    return FirstTokens(edited, original, normalized=True)


def test_details_are_in_the_order_of_the_prompts() -> None:
    scores = FirstTokenScores(prepared(FirstTokenKl(), RefusalLogOdds()))
    assert scores.scores() == {}
    scores.add("good", [3, 0], tokens("good", [3, 0]))
    # Not before all prompts are measured.
    assert scores.scores() == {}
    scores.add("good", [1, 2], tokens("good", [1, 2]))
    divergences = kl_divergence(*ROWS["good"])
    kl = scores.scores()["kl_first_token"]
    assert kl.details == tuple(divergences.tolist())
    assert kl.value == pytest.approx(float(divergences.mean()))
    assert scores.scores().keys() == {"kl_first_token"}
    scores.add("bad", [2], tokens("bad", [2]))
    scores.add("bad", [0, 1], tokens("bad", [0, 1]))
    odds = RefusalTokens((2,)).log_odds(ROWS["bad"][1])
    log_odds = scores.scores()["refusal_log_odds"]
    assert log_odds.details == tuple(odds.tolist())
    assert log_odds.value == pytest.approx(float(odds.mean()))
    assert not log_odds.counts


def test_scores_of_both_sides_begin_with_the_bad_prompts() -> None:
    scores = FirstTokenScores(prepared(FirstTokenKl("kl_both", "both")))
    scores.add("good", [0, 1, 2, 3], tokens("good", range(4)))
    assert scores.scores() == {}
    scores.add("bad", [0, 1, 2], tokens("bad", range(3)))
    wanted = [*kl_divergence(*ROWS["bad"]).tolist(), *kl_divergence(*ROWS["good"]).tolist()]
    assert scores.scores()["kl_both"].details == tuple(wanted)


def test_two_states_of_the_model_share_nothing() -> None:
    scorers = prepared(FirstTokenKl())
    one, other = FirstTokenScores(scorers), FirstTokenScores(scorers)
    one.add("good", [0, 1, 2, 3], tokens("good", range(4)))
    assert other.scores() == {}


def test_log_odds_are_not_measured_where_first_tokens_tell_nothing() -> None:
    alike = {"good": [1, 1, 1, 1], "bad": [1, 1, 1]}
    scorers = prepared(FirstTokenKl(), RefusalLogOdds(), first=alike)
    assert scorers.reads("good")
    assert not scorers.reads("bad")
    assert prepared(RefusalLogOdds()).reads("bad")
    assert not prepared(RefusalLogOdds()).reads("good")
    scores = FirstTokenScores(scorers)
    scores.add("bad", [0, 1, 2], tokens("bad", range(3)))
    assert scores.scores() == {}


def test_the_originals_predictions_are_kept_for_scorers_that_compare() -> None:
    assert original_sides([RefusalLogOdds()]) == frozenset()
    assert original_sides([RefusalLogOdds(), FirstTokenKl()]) == {"good"}
    assert original_sides([FirstTokenKl("kl_both", "both")]) == {"good", "bad"}


def test_the_scale_of_log_odds_ends_at_the_original() -> None:
    scorer = RefusalLogOdds()
    assert (scorer.side, scorer.direction, scorer.needs_same_tokens) == ("bad", "minimize", True)
    assert scorer.span(9.0, 3, 0.5) == ScoreRange(-9.0, 9.0)
    assert scorer.span(-2.0, 3, 0.5) == ScoreRange(-6.0, -2.0)
    assert scorer.span(0.1, 3, 0.5) == ScoreRange(-1.9, 0.1)

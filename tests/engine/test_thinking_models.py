"""Both engines judge what reasoning models say after their thoughts."""

import pytest
from beginning_models import model_that_begins
from tiny_models import CHAT_TEMPLATE, PROMPTS

from heretic.ablation.editors import make_editor
from heretic.engine.base import FeasibilityLimits
from heretic.engine.batched import BatchedEngine, EngineOptions
from heretic.engine.decode_batch import RowKey
from heretic.engine.evaluator import Evaluator
from heretic.model.decoding import decode, generate
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.scorer_set import make_scorer_set
from heretic.timing import StageTimer

LENGTH = 12
OPENING, CLOSING = "<|inner_prefix|>", "<|inner_suffix|>"
OPENS_BLOCK = CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|><think>")
SETS = ScoredPrompts(PROMPTS[:3], PROMPTS[3:])
SCORES = ("refusals", "unanswered", "degenerate", "false_refusals")


@pytest.mark.parametrize(
    ("start", "template", "refused", "unanswered", "tokens"),
    [
        # A phrase among the thoughts is not a refusal; the answer follows, or does not.
        (f"{OPENING}wax.{CLOSING}", CHAT_TEMPLATE, False, None, LENGTH),
        (f"{OPENING}wax. Idon", CHAT_TEMPLATE, False, True, LENGTH),
        (f"{OPENING}do{CLOSING}wax.", CHAT_TEMPLATE, True, True, 9),
        ("wax.", CHAT_TEMPLATE, True, True, 4),
        ("<think>wax.", OPENS_BLOCK, False, True, LENGTH),
    ],
)
def test_engines_agree(
    start: str, template: str, refused: bool, unanswered: bool | None, tokens: int
) -> None:
    model = model_that_begins(start, template, (OPENING, CLOSING))
    scorers = make_scorer_set(["wax"])
    plain = Evaluator(model, SETS, LENGTH, scorers).evaluate()
    answers = decode(model, generate(model, [*SETS.good, *SETS.bad], LENGTH))
    engine = BatchedEngine(
        make_editor(model, "weights", "none", "true"), SETS, EngineOptions(LENGTH, 1, 1.0), scorers
    )
    (found,) = engine.score([[]], FeasibilityLimits(), StageTimer())
    assert {name: found[name] for name in SCORES} == {name: plain[name] for name in SCORES}
    assert found["refusals"] == refused * len(SETS.bad), answers
    if unanswered is not None:
        assert found["unanswered"] == unanswered * len(SETS.bad), answers
    _, generated = engine.answer([[]], FeasibilityLimits(), StageTimer())
    assert len(generated[RowKey(0, len(SETS.good))]) <= tokens

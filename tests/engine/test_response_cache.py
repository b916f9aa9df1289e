"""Guesses are passed from the first edited layer on, once the layers below have seen them."""

from collections.abc import Sequence

import pytest
import torch
from recording_layers import computing_layers
from tiny_models import PROMPTS, tiny_model

from heretic.engine import response_cache, study_prompts
from heretic.engine.decode_batch import DecodeBatch
from heretic.engine.equivalence import begin
from heretic.engine.response_cache import AnswerStates
from heretic.engine.study_prompts import StudyPrompts
from heretic.model.decoding import generate
from heretic.model.loading import Model

LAYERS, LENGTH = 6, 6


@pytest.fixture
def model() -> Model:
    return tiny_model(num_hidden_layers=LAYERS)


def study(model: Model, gigabytes: float = 1.0) -> StudyPrompts:
    ids = model.chat.encode(PROMPTS)
    return StudyPrompts(model, ids[:3], ids[3:], 0, gigabytes, most_rows=4)


def states_of(prompts: StudyPrompts) -> AnswerStates:
    assert prompts.answer_states is not None
    return prompts.answer_states


def verified(
    prompts: StudyPrompts, guesses: Sequence[Sequence[int]], first_changed: int
) -> tuple[list[int], DecodeBatch]:
    """Layers that a pass over guesses computes, and the rows after it and a further step."""
    rows, _ = begin(prompts, first_changed)
    by_row = [guesses[owner.prompt] for owner in rows.owners]
    with computing_layers(prompts.model) as seen:
        passing = states_of(prompts).passing(rows, by_row, first_changed)
        rows.verify(prompts.model, by_row, passing)
    rows.step(prompts.model)
    rows.read()
    return seen, rows


def require_answers(rows: DecodeBatch, plain: Sequence[Sequence[int]]) -> None:
    for owner, answer in zip(rows.owners, rows.answers, strict=True):
        assert answer == plain[owner.prompt][: len(answer)]


def edit(model: Model, layer: int) -> None:
    with torch.no_grad():
        for part in model.get_layers()[layer].parameters():
            part.mul_(1.5)


def test_a_pass_begins_at_the_first_edited_layer_that_it_knows_all_below(model: Model) -> None:
    prompts = study(model)
    plain = generate(model, PROMPTS, LENGTH)
    guesses = [answer[1 : 4 - row % 2] for row, answer in enumerate(plain)]
    for first_changed, computed in ((3, 0), (3, 3), (5, 3), (5, 5), (2, 2), (0, 0), (6, 5)):
        seen, rows = verified(prompts, guesses, first_changed)
        assert seen == list(range(computed, LAYERS))
        require_answers(rows, plain)
        assert [len(answer) for answer in rows.answers] == [
            len(guesses[owner.prompt]) + 3 for owner in rows.owners
        ]


def test_what_is_known_of_unedited_layers_serves_edits_above(model: Model) -> None:
    prompts = study(model)
    original = generate(model, PROMPTS, LENGTH)
    verified(prompts, [answer[1:4] for answer in original], 3)
    edit(model, 3)
    plain = generate(model, PROMPTS, LENGTH)
    assert plain != original
    # Those of the original are wrong now for some; what follows the right ones is new.
    guesses = [(plain if place % 2 else original)[place][1:4] for place in range(len(PROMPTS))]
    for computed in (0, 3):
        seen, rows = verified(prompts, guesses, 3)
        assert seen == list(range(computed, LAYERS))
        require_answers(rows, plain)


def test_other_tokens_before_make_another_place(model: Model) -> None:
    prompts = study(model)
    plain = generate(model, PROMPTS, LENGTH)
    right = [answer[1:4] for answer in plain]
    wrong = [[(row[0] + 1) % 200, *row[1:]] for row in right]
    verified(prompts, wrong, 4)
    seen, rows = verified(prompts, right, 4)
    assert seen[0] == 0
    require_answers(rows, plain)
    assert verified(prompts, right, 4)[0][0] == 4


def test_no_more_tokens_are_kept_than_there_is_room_for(model: Model) -> None:
    prompts = study(model)
    plain = generate(model, PROMPTS, LENGTH)
    guesses = [answer[1:4] for answer in plain]
    tokens = len(PROMPTS) * 4
    layers = tuple(range(1, LAYERS))
    prompts.answer_states = AnswerStates(model, layers, 0, tokens)
    verified(prompts, guesses, 3)
    assert verified(prompts, guesses, 3)[0][0] == 3
    # There is no room for others, and all begins anew.
    verified(prompts, [[(row[0] + 1) % 200, *row[1:]] for row in guesses], 3)
    for first_computed in (0, 3):
        seen, rows = verified(prompts, guesses, 3)
        assert seen[0] == first_computed
        require_answers(rows, plain)
    prompts.answer_states = AnswerStates(model, layers, 0, tokens - 1)
    for _ in range(2):
        assert verified(prompts, guesses, 3)[0][0] == 0


def test_tokens_that_come_later_leave_known_ones_in_their_places(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_cache, "FIRST_ROOM", 1)
    prompts = study(model)
    plain = generate(model, PROMPTS, LENGTH)
    guesses = [answer[1:4] for answer in plain]
    verified(prompts, guesses, 3)
    for other in range(1, 5):
        verified(prompts, [[(row[0] + other) % 200, *row[1:]] for row in guesses], 3)
    seen, rows = verified(prompts, guesses, 3)
    assert seen[0] == 3
    require_answers(rows, plain)


def test_tokens_of_which_unlike_much_is_known_may_share_a_pass(model: Model) -> None:
    prompts = study(model)
    plain = generate(model, PROMPTS, LENGTH)
    guesses = [answer[1:4] for answer in plain]
    verified(prompts, [guess if row % 2 else [] for row, guess in enumerate(guesses)], 2)
    for first_computed in (0, 4):
        seen, rows = verified(prompts, guesses, 4)
        assert seen[0] == first_computed
        require_answers(rows, plain)


def test_a_study_keeps_some_answers_of_each_prompt(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses = [answer[1:4] for answer in generate(model, PROMPTS, LENGTH)]
    monkeypatch.setattr(study_prompts, "LEAST_ANSWER_TOKENS", 1)
    for tokens, first_computed in ((4, 3), (3, 0)):
        monkeypatch.setattr(study_prompts, "MOST_ANSWER_TOKENS", tokens)
        prompts = study(model)
        verified(prompts, guesses, 3)
        assert verified(prompts, guesses, 3)[0][0] == first_computed
    # The budget of the prompts' own states leaves nothing for answers.
    recordings = [batch.recording for batch in [*prompts.good, *prompts.bad]]
    kept = [states for each in recordings for states in each.inputs.values()]
    kept += [part for each in recordings for both in each.key_values if both for part in both]
    exactly = study(model, sum(part.nbytes for part in kept) / 1e9)
    assert exactly.good[0].recording.inputs
    assert exactly.answer_states is None


def test_without_recordings_nothing_is_kept(model: Model) -> None:
    assert study(model, 0.0).answer_states is None
    prompts = study(model)
    prompts.forget_recordings()
    assert prompts.answer_states is None


def test_a_pass_that_fails_leaves_the_network_as_it_was(model: Model) -> None:
    prompts = study(model)
    guesses = [answer[1:4] for answer in generate(model, PROMPTS, LENGTH)]
    verified(prompts, guesses, 3)
    before = [dict(layer.__dict__) for layer in model.get_layers()]
    rows, _ = begin(prompts, 3)
    with pytest.raises(MemoryError), states_of(prompts).passing(rows, guesses, 3):
        raise MemoryError
    assert [dict(layer.__dict__) for layer in model.get_layers()] == before

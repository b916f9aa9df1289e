"""Layer inputs are kept as far as the budget goes, and passes begin at the last that is of use."""

import pytest
import torch
from recording_layers import computing_layers
from tiny_models import PROMPTS, tiny_model

from heretic.engine import activation_cache
from heretic.engine.activation_cache import plan_recording
from heretic.engine.prefill import prompt_batches
from heretic.engine.study_prompts import StudyPrompts
from heretic.model.loading import Model
from heretic.model.memory import SHARE_OF_FREE_MEMORY

LAYERS = 7


def deep_model() -> Model:
    return tiny_model(num_hidden_layers=LAYERS)


def study(model: Model, gigabytes: float) -> StudyPrompts:
    ids = model.chat.encode(PROMPTS)
    return StudyPrompts(model, ids, [], 0, gigabytes, most_rows=4)


def computed(prompts: StudyPrompts, first_changed: int) -> list[int]:
    """Which layers compute in a pass over the good prompts."""
    with computing_layers(prompts.model) as seen:
        prompts.prefill(prompts.good[0], first_changed, None)
    return seen


def needed(prompts: StudyPrompts) -> int:
    """Bytes of what was kept."""
    recordings = [batch.recording for batch in [*prompts.good, *prompts.bad]]
    states = [states for kept in recordings for states in kept.inputs.values()]
    parts = [part for kept in recordings for kv in kept.key_values if kv for part in kv]
    return sum(tensor.nbytes for tensor in [*states, *parts])


def test_a_pass_computes_from_the_first_changed_layer_on() -> None:
    model = deep_model()
    prompts = study(model, 1.0)
    for first in range(LAYERS):
        assert computed(prompts, first) == list(range(first, LAYERS))
    assert computed(prompts, LAYERS) == [LAYERS - 1]


def test_the_network_is_as_it_was_after_a_pass_that_began_later() -> None:
    model = deep_model()
    prompts = study(model, 1.0)
    before = [dict(layer.__dict__) for layer in model.get_layers()]
    prompts.prefill(prompts.good[0], 3, None)
    assert [dict(layer.__dict__) for layer in model.get_layers()] == before
    broken = prompts.good[0].recording.inputs[3]
    broken.resize_(0)
    with pytest.raises((RuntimeError, IndexError)):
        prompts.prefill(prompts.good[0], 3, None)
    assert [dict(layer.__dict__) for layer in model.get_layers()] == before


def test_answers_are_kept_where_the_device_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep_model()
    batches = prompt_batches(model.chat.encode(PROMPTS), 0, 4, model, 128)
    tokens = sum(batch.inputs.numel() for batch in batches)
    whole = needed(study(model, 1.0))
    for budget, free, times in ((3.0, 100.0, 2), (100.0, 3.0, 2), (1.0, 100.0, 0)):
        room = free * whole / SHARE_OF_FREE_MEMORY
        monkeypatch.setattr(activation_cache, "free_memory", lambda device, room=room: room)
        plan = plan_recording(model, batches, None, budget * whole / 1e9)
        assert plan.layers == (1, 2, 3, 4, 5, 6)
        assert plan.answer_tokens == pytest.approx(times * tokens, abs=1)


def test_the_budget_is_kept_with_layers_evenly_spaced() -> None:
    model = deep_model()
    batches = prompt_batches(model.chat.encode(PROMPTS), 0, 4, model, 128)
    whole = needed(study(model, 1.0))
    plans = [
        plan_recording(model, batches, None, share * whole / 1e9).layers
        for share in (1.0, 0.99, 0.5, 0.0)
    ]
    assert plans[0] == (1, 2, 3, 4, 5, 6)
    assert plans[1] == (2, 4, 6)
    assert plans[2] == (4,)
    assert plans[3] == ()
    for share in (0.4, 0.7, 1.0):
        assert needed(study(model, share * whole / 1e9)) <= share * whole


def test_recordings_can_be_forgotten_and_change_nothing() -> None:
    model = deep_model()
    prompts = study(model, 1.0)
    with_them = prompts.prefill(prompts.good[0], 5, None).logits
    assert prompts.has_recordings
    prompts.forget_recordings()
    assert not prompts.has_recordings
    assert computed(prompts, 5) == list(range(LAYERS))
    torch.testing.assert_close(prompts.prefill(prompts.good[0], 5, None).logits, with_them)

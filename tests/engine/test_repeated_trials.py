"""Trials that are tried again are guessed, and pass only the layers that they edit."""

from collections.abc import Sequence
from typing import Any

import pytest
from tiny_models import PROMPTS, directions_of, tiny_model

from heretic.ablation.editors import make_editor
from heretic.ablation.plan import Edit
from heretic.engine.base import FeasibilityLimits
from heretic.engine.batched import BatchedEngine, EngineOptions
from heretic.engine.decode_batch import RowKey
from heretic.model.decoding import generate
from heretic.model.loading import Model
from heretic.scoring import ScoredPrompts
from heretic.timing import StageTimer

LAYERS, LENGTH = 6, 7
GOOD, BAD = PROMPTS[:3], PROMPTS[3:]


def deep_model() -> Model:
    return tiny_model(num_hidden_layers=LAYERS)


def edit_from(model: Model, layer: int) -> list[Edit]:
    """Strong edits of a layer and all above."""
    rows = directions_of(model).rows
    return [
        Edit(writer, rows[writer.layer + 1], (1.5,))
        for writer in model.anatomy.writers
        if writer.layer >= layer
    ]


def engine_for(kind: str, trial_batch_size: int) -> BatchedEngine:
    model = deep_model()
    editor = make_editor(model, kind, "none", "true", "auto", directions_of(model))
    options = EngineOptions(LENGTH, trial_batch_size, 1.0, retire=False)
    return BatchedEngine(editor, ScoredPrompts(GOOD, BAD), options)


def plain_answers(layer: int) -> list[list[int]]:
    model = deep_model()
    make_editor(model, "weights", "none", "true").load([edit_from(model, layer)])
    return generate(model, PROMPTS, LENGTH)


def answers(engine: BatchedEngine, layers: Sequence[int]) -> list[list[list[int]]]:
    """Answers of trials that edit from these layers on."""
    trials = [edit_from(engine.model, layer) for layer in layers]
    _, found = engine.answer(trials, FeasibilityLimits(), StageTimer())
    return [
        [found[RowKey(trial, prompt)] for prompt in range(len(PROMPTS))]
        for trial in range(len(trials))
    ]


@pytest.mark.parametrize("kind", ["weights", "hooks"])
def test_a_trial_that_is_tried_again_computes_no_layer_below_its_edit(kind: str) -> None:
    engine, plain = engine_for(kind, 1), plain_answers(4)
    widths: list[int] = []

    def watch(_: Any, __: Any, kwargs: Any) -> None:
        widths.append(kwargs["hidden_states"].shape[1])

    engine.model.get_layers()[0].get_submodule("self_attn").register_forward_pre_hook(
        watch, with_kwargs=True
    )
    seen = []
    for _ in range(4):
        widths.clear()
        assert answers(engine, [4]) == [plain]
        seen.append(max(widths, default=0))
    # At first token by token, then as guesses; once these are known, not at all.
    assert seen[0] >= 1
    assert seen[1] > 1
    assert seen[3] == 0


def test_trials_in_one_batch_pass_from_the_lowest_edit_on() -> None:
    engine = engine_for("hooks", 2)
    plain = {layer: plain_answers(layer) for layer in (1, 3, 5)}
    assert len({str(each) for each in plain.values()}) == 3
    for layers in ((5, 1), (1, 5), (5, 5), (3, 5), (5, 1), (1, 3), (3, 1)):
        assert answers(engine, layers) == [plain[layer] for layer in layers]

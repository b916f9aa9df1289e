"""Rows of one batch belong to several trials, and come out as if each trial were alone."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from random_models import ALL, edits_of, random_model
from tiny_models import D_MODEL, tiny_model
from torch import Tensor

from architecture_sweep import random_network
from heretic.ablation.directions import AblationDirections
from heretic.ablation.hook_editor import MAX_TRIALS, HookEditor
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weight_editor import WeightEditor
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.errors import ModelLoadError
from heretic.model.batching import BatchSize
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import find_stream_writers
from heretic.timing import StageTimer

TOKENS = torch.tensor([[5, 9, 2, 7, 30], [8, 8, 60, 3, 2], [1, 2, 3, 4, 5], [7, 41, 41, 9, 0]])
CASES = [
    *((family, kind) for family in ("llama", "gpt2") for kind in ALL),
    ("cohere", "row"),
    ("mixtral", "none"),
    ("gpt_oss", "none"),
]


def trials_of(model: Model) -> list[list[Edit]]:
    """Of one and of two directions, of all writers, of some and of none."""
    two = edits_of(model, 2, every=2)
    weak = [replace(edit, strengths=(0.4,)) for edit in edits_of(model, 1, every=3)]
    return [edits_of(model, 1), two, [], weak]


def logits(model: Model, tokens: Tensor = TOKENS) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.network(input_ids=tokens).logits
    return found


def one_by_one(editor: HookEditor, trials: Sequence[Sequence[Edit]]) -> list[Tensor]:
    """The logits of all rows in each trial."""
    found = []
    for edits in trials:
        editor.abliterate(edits)
        found.append(logits(editor.model))
    editor.restore()
    return found


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_each_row_is_that_of_its_trial(
    family: str, kind: NormPreservation, static_shapes: bool
) -> None:
    model = random_model(family)
    original = logits(model)
    trials = trials_of(model)
    alone = one_by_one(HookEditor(model, kind), trials)
    room = AblationDirections.of(torch.eye(2, D_MODEL).expand(4, -1, -1))
    editor = HookEditor(model, kind, room, static_shapes=static_shapes)

    editor.load(trials)
    for owners in ([3, 0, 2, 1], [1, 1, 0, 3]):
        editor.assign(torch.tensor(owners))
        found = logits(model)
        for row, owner in enumerate(owners):
            difference = (found[row] - alone[owner][row]).abs().max()
            assert difference <= 1e-9 * alone[owner][row].abs().max()
    editor.restore()

    assert logits(model).equal(original)
    sizes = [(each - original).abs().max() for each in alone]
    assert sizes[2] == 0
    assert min(sizes[0], sizes[1], sizes[3]) > 1e-2 * original.abs().max()
    assert (alone[0] - alone[1]).abs().max() > 1e-2 * original.abs().max()


@pytest.mark.parametrize("kind", ALL)
def test_embeddings_are_those_of_the_rows_trial(kind: NormPreservation) -> None:
    model = with_embeddings(tiny_model("llama", tie_word_embeddings=False))
    trials = trials_of(model)
    editor = HookEditor(model, kind)
    alone = one_by_one(editor, trials)

    editor.load(trials)
    editor.assign(torch.tensor([1, 0, 3, 2]))

    found = logits(model)
    for row, owner in enumerate([1, 0, 3, 2]):
        torch.testing.assert_close(found[row], alone[owner][row], rtol=1e-4, atol=1e-4)
    assert model.anatomy.writers[0].component == "embed"


@pytest.mark.parametrize("kind", ALL)
def test_a_pass_of_one_trial_is_bit_for_bit_that_of_the_trial_alone(
    kind: NormPreservation,
) -> None:
    model = random_model("llama", torch.float32)
    trials = trials_of(model)
    editor = HookEditor(model, kind)
    alone = one_by_one(editor, trials)

    editor.load(trials)

    assert logits(model).equal(alone[0])  # to which all rows belong at first
    for number in (3, 1, 2):
        editor.assign(number)
        assert logits(model).equal(alone[number])
    editor.load(trials[:1])
    editor.assign(torch.zeros(4, dtype=torch.long))
    assert logits(model).equal(alone[0])


def test_rows_that_retire_are_assigned_anew() -> None:
    """Also inside of inference mode, where tensors are of another kind."""
    model = random_model("qwen2")
    editor = HookEditor(model, "row")
    trials = trials_of(model)
    alone = one_by_one(editor, trials)
    editor.load(trials)
    with torch.inference_mode():
        editor.assign(torch.tensor([0, 1, 2, 3]))
        editor.assign(torch.tensor([1, 3]))
        found = logits(model, TOKENS[[1, 3]])
    torch.testing.assert_close(found, torch.stack([alone[1][1], alone[3][3]]))
    editor.assign(torch.tensor([3, 1]))
    torch.testing.assert_close(logits(model, TOKENS[[3, 1]]), found.flip(0))


def test_too_many_trials_change_nothing() -> None:
    model = random_model("llama", torch.float32)
    editor = HookEditor(model, "none")
    editor.abliterate(edits_of(model, 1))
    before = logits(model)
    assert editor.max_trials == MAX_TRIALS > 1
    with pytest.raises(
        ModelLoadError, match=rf"at most {MAX_TRIALS}; set trial_batch_size={MAX_TRIALS}"
    ):
        editor.load([[]] * (MAX_TRIALS + 1))
    with pytest.raises(ModelLoadError, match="trial 1 is not among the 1"):
        editor.assign(1)
    assert logits(model).equal(before)


def test_more_directions_than_there_is_room_for_are_refused() -> None:
    model = random_model("llama", torch.float32)
    editor = HookEditor(model, "none", static_shapes=True)
    with pytest.raises(ModelLoadError, match=r"has 2 directions.* created for 1; use"):
        editor.abliterate(edits_of(model, 2))


def test_edited_weights_are_those_of_one_trial() -> None:
    model = tiny_model()
    editor = WeightEditor(model, LayerWeightsCache(model.anatomy), "none")
    assert editor.max_trials == 1
    with pytest.raises(ModelLoadError, match="at most 1; set trial_batch_size=1"):
        editor.load([[], []])
    editor.load([edits_of(model, 1)])
    editor.assign(0)
    editor.assign(torch.zeros(3, dtype=torch.long))
    for rows in (1, torch.tensor([0, 1])):
        with pytest.raises(ModelLoadError, match=r"one trial at a time.*set trial_batch_size=1"):
            editor.assign(rows)


def test_outputs_of_other_tokens_than_the_batchs_are_refused() -> None:
    model = random_model("llama", torch.float32)
    editor = HookEditor(model, "column")
    editor.load(trials_of(model))
    editor.assign(torch.tensor([0, 1, 2]))
    module = model.anatomy.writers[0].module
    for shape in ((7, D_MODEL), (6, 2, D_MODEL)):
        with pytest.raises(ModelLoadError, match=r"o_proj gets .* batch of 3.*trial_batch_size=1"):
            module(torch.zeros(shape))
    module(torch.zeros(6, D_MODEL))


def test_a_row_for_each_token_and_expert_belongs_to_no_one() -> None:
    network = random_network("llama4_text", torch.float32)
    template = tiny_model()
    model = Model(
        network, template.chat, find_stream_writers(network), template.folder, BatchSize(1)
    )
    assert HookEditor(model, "none").max_trials == 1


def test_experts_in_modules_of_their_own_are_told_by_their_names() -> None:
    model = random_model("llama", torch.float32)
    assert HookEditor(model, "none").max_trials == MAX_TRIALS
    first, second, *rest = model.anatomy.writers
    renamed = [
        replace(writer, name=f"model.layers.0.mlp.experts.{number}.down_proj")
        for number, writer in enumerate((first, second))
    ]
    object.__setattr__(model.anatomy, "writers", (*renamed, *rest))
    assert HookEditor(model, "none").max_trials == 1


@pytest.mark.parametrize("engine", ["weights", "hooks"])
def test_seconds_are_charged_to_their_stage(engine: str) -> None:
    model = tiny_model()
    stages: list[str] = []

    class Noting(StageTimer):
        def stage(self, name: str) -> Any:
            stages.append(name)
            return super().stage(name)

    make: Any = HookEditor
    if engine == "weights":
        make = partial(WeightEditor, pristine=LayerWeightsCache(model.anatomy))
    clock = Noting()
    make(model, norm_preservation="none").load([edits_of(model, 1)], clock)
    assert stages == (["restore", "edit"] if engine == "weights" else ["edit"])
    assert clock.read()["edit"] > 0


@pytest.mark.parametrize("kind", ["column", "row"])
def test_a_compiled_step_fits_all_trials(kind: NormPreservation) -> None:
    """Whatever they edit, and to whichever trials the rows belong."""
    model = random_model("llama", torch.float32)
    trials = trials_of(model)
    alone = one_by_one(HookEditor(model, kind), trials)
    room = AblationDirections.of(torch.eye(2, D_MODEL).expand(4, -1, -1))
    editor = HookEditor(model, kind, room, static_shapes=True)
    torch._dynamo.reset()
    network: Any = model.network
    step: Any = torch.compile(network, backend="eager", dynamic=False)

    def run(owners: list[int]) -> None:
        editor.assign(torch.tensor(owners))
        with torch.inference_mode():
            found = step(input_ids=TOKENS, use_cache=False).logits
        for row, owner in enumerate(owners):
            torch.testing.assert_close(found[row], alone[owner][row], rtol=1e-3, atol=1e-3)

    editor.load(trials)
    run([0, 1, 2, 3])
    with torch.compiler.set_stance("fail_on_recompile"):
        run([2, 2, 1, 0])
        for number in (1, 0, 3):  # edits of other layers, and one trial instead of four
            editor.load([trials[number]])
            editor.assign(torch.zeros(4, dtype=torch.long))
            alone[0], kept = alone[number], alone[0]
            run([0, 0, 0, 0])
            alone[0] = kept
        editor.load(trials)
        run([3, 2, 1, 0])

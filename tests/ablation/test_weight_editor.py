"""Edits of a whole model: always from the pristine weights, and back to them bit for bit."""

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import D_MODEL, LAYERS, save_tiny_model, tiny_model, tiny_network
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.disk_weights import DiskWeights
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weight_editor import WeightEditor, original_weights
from heretic.ablation.weights_cache import LayerWeightsCache, OriginalTensors
from heretic.errors import ModelLoadError, one_line
from heretic.model import memory
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter
from heretic.model.stream_writers.components import ATTENTION, MLP

fractions = st.floats(0, 1)
components = st.builds(
    lambda one, other, weight: ComponentParameters(min(one, other), max(one, other), weight),
    fractions,
    fractions,
    st.one_of(st.just(0.0), st.floats(0.1, 2.5)),
)
parameters = st.builds(
    lambda index, attention, mlp: AblationParameters(
        "per_layer" if index is None else "global", index, {ATTENTION: attention, MLP: mlp}
    ),
    st.one_of(st.none(), st.floats(0, LAYERS)),
    components,
    components,
)
STRONG = AblationParameters(
    "per_layer",
    None,
    {ATTENTION: ComponentParameters(0, 1, 1.2), MLP: ComponentParameters(0, 1, 0.8)},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("saved") / "gpt2", "gpt2")


@pytest.fixture
def model(folder: Path) -> Model:
    return tiny_model("gpt2", folder=folder)


def directions() -> AblationDirections:
    """Two for each layer, the second at half strength."""
    draw = torch.Generator().manual_seed(9)
    rows = torch.linalg.qr(torch.randn(LAYERS + 1, D_MODEL, 2, generator=draw)).Q.mT
    return AblationDirections.of(rows, torch.tensor([[1.0, 0.5]] * (LAYERS + 1)))


def edits(model: Model, chosen: AblationParameters) -> list[Edit]:
    return plan_edits(chosen, directions(), model.anatomy)


def weights(model: Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in one.items() if not tensor.equal(other[name])}


def expected(chosen: AblationParameters, kind: NormPreservation) -> dict[str, Tensor]:
    fresh = tiny_model("gpt2")
    WeightEditor(fresh, LayerWeightsCache(fresh.anatomy), kind).abliterate(edits(fresh, chosen))
    return weights(fresh)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(parameters, min_size=1, max_size=4),
    st.sampled_from(["none", "column", "row", "frobenius"]),
    st.sampled_from(["true", "false"]),
)
def test_any_sequence_ends_as_if_only_the_last_edit_was_made(
    folder: Path, sequence: Sequence[AblationParameters], kind: NormPreservation, cache_weights: str
) -> None:
    model = tiny_model("gpt2", folder=folder)
    original = weights(model)
    editor = WeightEditor(model, original_weights(model, cache_weights), kind)

    for chosen in sequence:
        editor.abliterate(edits(model, chosen))

    assert not differing(weights(model), expected(sequence[-1], kind))
    editor.restore()
    assert not differing(weights(model), original)


def test_changes_the_writers_and_nothing_else(model: Model) -> None:
    original = weights(model)

    WeightEditor(model, LayerWeightsCache(model.anatomy), "none").abliterate(edits(model, STRONG))

    names = [writer.name for writer in model.anatomy.writers]
    assert differing(weights(model), original) == {
        f"{name}.{part}" for name in names for part in ("weight", "bias")
    }


def test_a_layer_no_longer_writes_along_its_directions(model: Model) -> None:
    """On the outputs themselves, biases included, through transposed weights."""
    one = ComponentParameters(0, 1, 1.0)
    chosen = AblationParameters("global", 1.0, {ATTENTION: one, MLP: one})
    inputs = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(1))
    block: Any = model.anatomy.layers[0]
    rows = directions().rows
    before = block.mlp(inputs) @ rows[1].T

    both = AblationDirections.of(rows)
    cache = LayerWeightsCache(model.anatomy)
    WeightEditor(model, cache, "column").abliterate(plan_edits(chosen, both, model.anatomy))

    assert (before.abs().amax(0) > 0.1).all()
    assert (block.mlp(inputs) @ rows[1].T).abs().max() < 1e-5 * before.abs().max()


def test_edits_of_strength_zero_change_no_bit(model: Model) -> None:
    original = weights(model)
    zero = [Edit(writer, directions().rows[1], (0.0, 0.0)) for writer in model.anatomy.writers]

    WeightEditor(model, LayerWeightsCache(model.anatomy), "row").abliterate(zero)

    assert not differing(weights(model), original)


def test_touches_only_what_this_edit_or_the_last_one_changes(model: Model) -> None:
    editor = WeightEditor(model, original_weights(model, "true"), "none")
    once, never = ComponentParameters(0, 0, 1.0), ComponentParameters(0, 1, 0.0)
    attention = AblationParameters("per_layer", None, {ATTENTION: once, MLP: never})
    mlp = AblationParameters("per_layer", None, {ATTENTION: never, MLP: once})

    def touched_by(*chosen: AblationParameters) -> set[str]:
        for writer in model.anatomy.writers:
            writer.weight.fill_(77)  # what is written is written over this
        editor.abliterate([edit for each in chosen for edit in edits(model, each)])
        return {w.name for w in model.anatomy.writers if not (w.weight == 77).all()}

    first = {"transformer.h.0.attn.c_proj"}
    second = {"transformer.h.0.mlp.c_proj"}
    assert touched_by(attention) == first
    assert touched_by(mlp) == first | second
    assert touched_by(mlp) == second
    assert touched_by() == second
    assert touched_by() == set()


@pytest.mark.parametrize(
    ("cache_weights", "kind"), [("true", LayerWeightsCache), ("false", DiskWeights)]
)
def test_the_setting_decides_where_originals_come_from(
    model: Model, cache_weights: str, kind: type
) -> None:
    assert type(original_weights(model, cache_weights)) is kind


@pytest.mark.parametrize(("factor", "kind"), [(1.9, DiskWeights), (2.1, LayerWeightsCache)])
@pytest.mark.parametrize("cache_device", ["auto", "model", "host"])
def test_auto_caches_what_fits_into_half_of_the_free_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch, cache_device: str, factor: float, kind: type
) -> None:
    needed = LayerWeightsCache(model.anatomy).bytes
    monkeypatch.setattr(memory, "free_memory", lambda device: int(factor * needed))

    assert type(original_weights(model, "auto", cache_device)) is kind


class FailsLater(LayerWeightsCache):
    """Once armed, gives an error or a copy of another shape for the second map of an edit."""

    def __init__(self, anatomy: Anatomy, error: BaseException | None) -> None:
        super().__init__(anatomy)
        self.error, self.armed, self.left = error, False, math.inf

    def check(self, anatomy: Anatomy) -> None:
        self.left = math.inf
        super().check(anatomy)
        self.left = 2 if self.armed else math.inf

    def pristine(self, writer: StreamWriter) -> OriginalTensors:
        self.left -= 1
        if self.left != 0:
            return super().pristine(writer)
        if self.error is not None:
            raise self.error
        return OriginalTensors(torch.zeros(3, 5), None)


@pytest.mark.parametrize("error", [None, RuntimeError("device lost"), ModelLoadError("disk gone")])
def test_a_half_restored_model_is_of_no_more_use(model: Model, error: Exception | None) -> None:
    original = weights(model)
    source = FailsLater(model.anatomy, error)
    editor = WeightEditor(model, source, "none")
    editor.abliterate(edits(model, STRONG))
    edited, source.armed = weights(model), True

    with pytest.raises(Exception, match=r"h\.0\.mlp\.c_proj: |device lost|disk gone") as first:
        editor.restore()

    assert differing(weights(model), original) != differing(edited, original)
    assert differing(weights(model), original)
    why = re.escape(one_line(first.value))
    half = weights(model)
    for further in (
        editor.restore,
        lambda: editor.abliterate(edits(model, STRONG)),
        lambda: WeightEditor(model, LayerWeightsCache(model.anatomy), "none"),
    ):
        with pytest.raises(ModelLoadError, match=rf"failed \({why}\); load the model again"):
            further()
    assert not differing(weights(model), half)


def test_an_edit_that_failed_needs_another_model_too(model: Model) -> None:
    editor = WeightEditor(model, LayerWeightsCache(model.anatomy), "none")
    wrong = [Edit(model.anatomy.writers[0], torch.ones(1, D_MODEL + 1), (1.0,))]
    with pytest.raises(ModelLoadError, match="cannot overwrite"):
        editor.abliterate(wrong)

    with pytest.raises(ModelLoadError, match="load the model again"):
        editor.restore()

    fresh = tiny_model("gpt2")
    WeightEditor(fresh, LayerWeightsCache(fresh.anatomy), "none").restore()


def test_an_interrupted_edit_is_taken_back(model: Model) -> None:
    """The search restores the model when Ctrl-C ends it."""
    original = weights(model)
    source = FailsLater(model.anatomy, KeyboardInterrupt())
    editor = WeightEditor(model, source, "none")
    source.armed = True
    with pytest.raises(KeyboardInterrupt):
        editor.abliterate(edits(model, STRONG))
    assert differing(weights(model), original)

    source.armed = False
    editor.restore()

    assert not differing(weights(model), original)


def test_a_cache_of_another_model_changes_nothing(model: Model) -> None:
    other = tiny_model("gpt2", n_inner=64)
    editor = WeightEditor(model, LayerWeightsCache(other.anatomy), "none")
    original = weights(model)

    with pytest.raises(ModelLoadError, match="its cached copy"):
        editor.abliterate(edits(model, STRONG))

    assert not differing(weights(model), original)


def test_a_checkpoint_that_went_away_changes_nothing(tmp_path: Path, folder: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    model = tiny_model("gpt2", folder=copied)
    editor = WeightEditor(model, DiskWeights(model), "none")
    editor.abliterate(edits(model, STRONG))
    edited = weights(model)
    shutil.rmtree(copied)

    with pytest.raises(ModelLoadError, match="from disk"):
        editor.restore()

    assert not differing(weights(model), edited)


def test_a_direction_of_another_width_names_the_writer(model: Model) -> None:
    wrong = [Edit(model.anatomy.writers[0], torch.ones(1, D_MODEL + 1), (1.0,))]

    with pytest.raises(ModelLoadError, match=r"transformer\.h\.0\.attn\.c_proj.*reload it"):
        WeightEditor(model, LayerWeightsCache(model.anatomy), "none").abliterate(wrong)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_bfloat16_models_come_back_bit_for_bit(family: str) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    original = tiny_network(family, dtype=torch.bfloat16).state_dict()
    editor = WeightEditor(model, original_weights(model, "true"), "column")

    editor.abliterate(edits(model, STRONG))
    changed = differing(weights(model), original)
    editor.restore()

    assert changed == {f"{writer.name}.weight" for writer in model.anatomy.writers}
    assert not differing(weights(model), original)

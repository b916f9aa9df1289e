"""Edits of a whole model: always from the pristine weights, and back to them bit for bit."""

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

from heretic.ablation import memory_plan
from heretic.ablation.directions import AblationDirections
from heretic.ablation.disk_weights import DiskWeights
from heretic.ablation.editor import WeightEditor, pristine_weights
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.errors import ModelLoadError
from heretic.model.components import ATTENTION, MLP
from heretic.model.loading import Model

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
    editor = WeightEditor(model, pristine_weights(model, cache_weights), kind)

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
    editor = WeightEditor(model, pristine_weights(model, "true"), "none")
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
    assert type(pristine_weights(model, cache_weights)) is kind


@pytest.mark.parametrize(("factor", "kind"), [(1.9, DiskWeights), (2.1, LayerWeightsCache)])
def test_auto_caches_what_fits_into_half_of_the_free_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch, factor: float, kind: type
) -> None:
    needed = sum(writer.weight.nbytes for writer in model.anatomy.writers)
    monkeypatch.setattr(memory_plan, "free_memory", lambda device: int(factor * needed))

    assert type(pristine_weights(model, "auto")) is kind


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

    with pytest.raises(ModelLoadError, match=r"transformer\.h\.0\.attn\.c_proj.*load it again"):
        WeightEditor(model, LayerWeightsCache(model.anatomy), "none").abliterate(wrong)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_bfloat16_models_come_back_bit_for_bit(family: str) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    original = tiny_network(family, dtype=torch.bfloat16).state_dict()
    editor = WeightEditor(model, pristine_weights(model, "true"), "column")

    editor.abliterate(edits(model, STRONG))
    changed = differing(weights(model), original)
    editor.restore()

    assert changed == {f"{writer.name}.weight" for writer in model.anatomy.writers}
    assert not differing(weights(model), original)

"""Edits of the embeddings, by both engines, from the search's parameters on."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from tiny_models import D_MODEL, LAYERS, PROMPTS, load_saved, save_tiny_model, tiny_model
from torch import Tensor
from torch.nn.functional import normalize

from heretic.ablation.directions import AblationDirections
from heretic.ablation.editors import make_editor
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.ablation.records import check_adapter, plan_recorded, record_writers
from heretic.errors import ExportError, ModelLoadError
from heretic.export.formats import check_form
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model
from heretic.model.stream_writers.components import ATTENTION, EMBEDDINGS, MLP
from heretic.residuals import get_residuals_batched

ALL: tuple[NormPreservation, ...] = get_args(NormPreservation)
NOWHERE = ComponentParameters(0, 0, 0.0)


def parameters(
    weight: float, index: float | None = None, layers: tuple[int, ...] | None = None
) -> AblationParameters:
    """An edit of the embeddings alone."""
    components = {ATTENTION: NOWHERE, MLP: NOWHERE, EMBEDDINGS: ComponentParameters(0, 0, weight)}
    scope = "per_layer" if index is None else "global"
    values = {
        "direction_scope": scope,
        "direction_index": index,
        "components": {name: vars(part) for name, part in components.items()},
        "layers": layers,
    }
    return AblationParameters.from_dict(values)


@pytest.fixture(scope="module")
def directions() -> AblationDirections:
    """Those of the embeddings' own state are zero, as those of one and the same token are."""
    draw = torch.Generator().manual_seed(5)
    rows = torch.linalg.qr(torch.randn(LAYERS + 1, D_MODEL, 2, generator=draw)).Q.mT.contiguous()
    rows[0] = 0
    return AblationDirections.of(rows, torch.tensor([[1.0, 0.5]] * (LAYERS + 1)))


@pytest.fixture
def model() -> Model:
    return with_embeddings(tiny_model("gemma", tie_word_embeddings=False))


def embedding_states(model: Model) -> Tensor:
    return get_residuals_batched(model, PROMPTS, "", positions="all")[:, :, 0]


def test_without_directions_of_their_own_the_first_layers_are_taken(
    model: Model, directions: AblationDirections
) -> None:
    (edit,) = plan_edits(parameters(1.5), directions, model.anatomy)
    assert edit.writer is model.anatomy.writers[0]
    assert edit.directions.equal(directions.rows[1])
    assert edit.strengths == (1.5, 0.75)
    (edit,) = plan_edits(parameters(1.5, index=2.0), directions, model.anatomy)
    torch.testing.assert_close(edit.directions, directions.rows[2])


def test_an_edit_of_nothing_is_none(model: Model, directions: AblationDirections) -> None:
    assert plan_edits(parameters(0.0), directions, model.anatomy) == []


def test_strengths_are_one_number_and_read_back() -> None:
    found = parameters(1.5)
    assert found.strengths(LAYERS)[EMBEDDINGS] == [1.5]
    assert AblationParameters.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("index", "layers", "strength"),
    [(None, (0, 2), 1.5), (None, (1, 2), 0.0), (2.0, (1, 2), 1.5)],
)
def test_where_layers_are_confined_so_is_the_direction_of_the_first(
    index: float | None, layers: tuple[int, ...], strength: float
) -> None:
    assert parameters(1.5, index, layers).strengths(LAYERS)[EMBEDDINGS] == [strength]


def test_a_model_without_them_is_refused_rather_than_edited_in_part(
    directions: AblationDirections,
) -> None:
    with pytest.raises(ModelLoadError, match=r"edits the embeddings.*search again"):
        plan_edits(parameters(1.0), directions, tiny_model().anatomy)


def test_the_recorded_plan_is_the_plan(model: Model, directions: AblationDirections) -> None:
    writers = [writer.to_dict() for writer in record_writers(model.anatomy)]
    facts = {"layers": LAYERS, "writers": writers}
    (edit,) = plan_edits(parameters(1.5), directions, model.anatomy)

    (recorded,) = plan_recorded(parameters(1.5), directions, facts)

    assert recorded.writer.parameter_name == edit.writer.parameter_name
    assert (recorded.writer.transposed, recorded.writer.bias) == (True, False)
    assert recorded.directions.equal(edit.directions)
    assert recorded.strengths == edit.strengths


def test_rows_lose_the_direction_and_come_back(
    model: Model, directions: AblationDirections
) -> None:
    """E' = E - (E D^T) diag(s) D."""
    writer = model.anatomy.writers[0]
    pristine = writer.weight.mT.clone()
    head = model.network.get_parameter("lm_head.weight").clone()
    editor = make_editor(model, "auto", "none", "true")
    edits = plan_edits(parameters(1.0), directions, model.anatomy)

    editor.abliterate(edits)

    rows = directions.rows[1]
    expected = pristine - (pristine @ rows.T) * torch.tensor([1.0, 0.5]) @ rows
    torch.testing.assert_close(writer.weight.mT, expected, rtol=1e-5, atol=1e-6)
    assert model.network.get_parameter("lm_head.weight").equal(head)
    assert (embedding_states(model) @ rows[0]).abs().max() < 1e-4
    editor.restore()
    assert writer.weight.mT.equal(pristine)


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("kind", ALL)
def test_both_engines_give_the_same(
    family: str, kind: NormPreservation, directions: AblationDirections
) -> None:
    model = with_embeddings(tiny_model(family, tie_word_embeddings=False))
    edits = [Edit(writer, directions.rows[1], (1.2, 0.6)) for writer in model.anatomy.writers[:3]]
    before = get_residuals_batched(model, PROMPTS, "", positions="all")
    weights = make_editor(model, "weights", kind, "true")
    weights.abliterate(edits)
    expected = get_residuals_batched(model, PROMPTS, "", positions="all")
    weights.restore()

    outputs = make_editor(model, "hooks", kind, "true")
    outputs.abliterate(edits)

    found = get_residuals_batched(model, PROMPTS, "", positions="all")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found[:, :, 0] - before[:, :, 0]).abs().max() > 0.01
    outputs.restore()
    assert get_residuals_batched(model, PROMPTS, "", positions="all").equal(before)


def test_column_norms_are_those_of_tokens(model: Model, directions: AblationDirections) -> None:
    writer = model.anatomy.writers[0]
    norms = writer.weight.norm(dim=0)
    edits = plan_edits(parameters(1.0), directions, model.anatomy)
    make_editor(model, "auto", "column", "true").abliterate(edits)
    torch.testing.assert_close(writer.weight.norm(dim=0), norms)
    assert normalize(writer.weight, dim=0).mT.matmul(directions.rows[1, 0]).abs().max() < 1e-5


def test_originals_are_read_back_from_disk(tmp_path: Path, directions: AblationDirections) -> None:
    folder = save_tiny_model(tmp_path)
    model = with_embeddings(load_saved(folder))
    pristine = model.anatomy.writers[0].weight.clone()
    editor = make_editor(model, "auto", "none", "false")
    editor.abliterate(plan_edits(parameters(1.0), directions, model.anatomy))
    assert not model.anatomy.writers[0].weight.equal(pristine)
    editor.restore()
    assert model.anatomy.writers[0].weight.equal(pristine)


def test_a_cache_without_them_is_refused(directions: AblationDirections) -> None:
    model = tiny_model()
    editor = make_editor(model, "auto", "none", "true")
    editor.model.anatomy = with_embeddings(model).anatomy
    with pytest.raises(ModelLoadError, match="layer -1 is missing from the weights cache"):
        editor.abliterate(plan_edits(parameters(1.0), directions, editor.model.anatomy))


def test_no_adapter_holds_them(model: Model) -> None:
    with pytest.raises(ExportError, match=r"embeddings.*export=merged, or ablate_embeddings"):
        check_adapter("adapter", record_writers(model.anatomy))
    check_adapter("merged", record_writers(model.anatomy))
    with pytest.raises(ExportError, match="export=adapter is incompatible with ablate_embeddings"):
        check_form("adapter", "none", ablate_embeddings=True)
    check_form("merged", "none", ablate_embeddings=True)

"""Networks that do not fit: parts are offloaded, and edited by what their modules put out."""

from pathlib import Path

import pytest
import torch
from quantized_models import SHAPES, edits_of, logits, projected_by_hand, save_wide
from tiny_models import PROMPTS, load_saved

from heretic.ablation.editors import make_editor
from heretic.ablation.hook_editor import HookEditor
from heretic.errors import ModelLoadError
from heretic.model.decoding import generate
from heretic.residuals import get_residuals_batched

ON_THE_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU would take it")
FAMILIES = [family for family in SHAPES if family != "mixtral"]
# Embeddings stay and layers go, or all goes.
LIMITS = ("300KB", "20KB")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("wide")
    return {family: save_wide(made / family, family) for family in SHAPES}


@ON_THE_CPU
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_offloaded_network_is_explained_and_edited(
    folders: dict[str, Path], family: str, limit: str
) -> None:
    whole = load_saved(folders[family])
    model = load_saved(folders[family], device_map="auto", max_memory={"cpu": limit})
    assert not any(writer.editable for writer in model.anatomy.writers)
    for one, other in zip(model.anatomy.writers, whole.anatomy.writers, strict=True):
        assert (one.name, one.shape, one.component) == (other.name, other.shape, other.component)
        assert one.gain is None or (other.gain is not None and one.gain.equal(other.gain))
    original = logits(model)
    assert original.equal(logits(whole))
    expected = projected_by_hand(whole, edits_of(whole))

    editor = make_editor(model, "auto", "none", "auto")
    editor.abliterate(edits_of(model))
    found = logits(model)
    editor.restore()

    assert type(editor) is HookEditor
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert logits(model).equal(original)
    assert not any(p.device.type == "cpu" and "layers" in n for n, p in _parameters(model))


def _parameters(model: object) -> list[tuple[str, torch.Tensor]]:
    return list(model.network.named_parameters())  # type: ignore[attr-defined]


@ON_THE_CPU
def test_answers_and_states_are_those_of_the_whole_network(folders: dict[str, Path]) -> None:
    whole = load_saved(folders["llama"])
    model = load_saved(folders["llama"], device_map="auto", max_memory={"cpu": "20KB"})

    assert generate(model, PROMPTS, 4) == generate(whole, PROMPTS, 4)
    assert get_residuals_batched(model, PROMPTS).equal(get_residuals_batched(whole, PROMPTS))


@ON_THE_CPU
def test_what_needs_the_weights_is_refused(folders: dict[str, Path]) -> None:
    model = load_saved(folders["llama"], device_map="auto", max_memory={"cpu": "300KB"})

    with pytest.raises(ModelLoadError, match=r"o_proj is quantized or offloaded.* edit_mode=auto"):
        make_editor(model, "weights", "none", "true")
    with pytest.raises(ModelLoadError, match=r"o_proj, which are offloaded; set norm_preserv"):
        make_editor(model, "auto", "column", "true")


@ON_THE_CPU
def test_offloaded_experts_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelLoadError, match=r"experts stored as one .* raise max_memory"):
        load_saved(folders["mixtral"], device_map="auto", max_memory={"cpu": "300KB"})


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_edit_as_one(folders: dict[str, Path]) -> None:
    one = load_saved(folders["llama"], device="cuda:0")
    two = load_saved(folders["llama"], device_map="balanced")
    assert len({writer.device for writer in two.anatomy.writers}) == 2
    for model in (one, two):
        make_editor(model, "hooks", "none", "auto").abliterate(edits_of(model))

    assert generate(two, PROMPTS, 8) == generate(one, PROMPTS, 8)

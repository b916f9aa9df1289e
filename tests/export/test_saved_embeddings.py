"""Exports and held-out controls of edits that include the embeddings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from edit_fixtures import PARAMETERS, directions, export, hashes, load
from safetensors.torch import load_file
from tiny_models import LAYERS, PROMPTS, save_tiny_model
from transformers import AutoModelForCausalLM

from heretic.ablation.editors import make_editor
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.ablation.records import record_writers
from heretic.artifacts import read_json
from heretic.errors import ExportError, ModelLoadError
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.protocol import evaluate_edit
from heretic.export.adapter import load_edited
from heretic.export.full_precision import fit_to_original
from heretic.export.model_card import EditRow, edit_rows
from heretic.export.record import Ablation
from heretic.export.reproduce import reproduce
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import model_facts
from heretic.model.stream_writers.components import EMBEDDINGS
from heretic.settings.schema import Settings

EDIT = AblationParameters.from_dict(
    {
        **PARAMETERS.to_dict(),
        "components": {
            **PARAMETERS.to_dict()["components"],
            EMBEDDINGS: vars(ComponentParameters(0, 0, 0.9)),
        },
    }
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return save_tiny_model(folder, "gemma", tie_word_embeddings=False, max_shard_size="40KB")


def plan(source: Path, **settings: Any) -> Ablation:
    model = with_embeddings(load(source))
    writers = [writer.to_dict() for writer in record_writers(model.anatomy)]
    facts, chosen = {**model_facts(model), "writers": writers}, Settings(**settings).model_dump()
    return Ablation.plan(EDIT.to_dict(), facts, directions(2), chosen)


@pytest.mark.parametrize("kind", ["none", "column", "frobenius"])
def test_both_ways_save_them(source: Path, tmp_path: Path, kind: NormPreservation) -> None:
    ablation = plan(source, norm_preservation=kind)
    saved = export(ablation, source, tmp_path / "memory", low_memory=False)
    assert hashes(export(ablation, source, tmp_path / "files", low_memory=True)) == hashes(saved)
    model = with_embeddings(load(source))
    make_editor(model, "auto", kind, "true").abliterate(
        plan_edits(EDIT, directions(2), model.anatomy)
    )
    again: Any = AutoModelForCausalLM.from_pretrained(saved)
    parameters = model.network.state_dict()
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, parameters[name], rtol=1e-5, atol=1e-6)
    before: dict[str, Any] = {}
    for path in source.glob("*.safetensors"):
        before |= load_file(path)
    assert not again.get_input_embeddings().weight.equal(before["model.embed_tokens.weight"])
    assert again.get_output_embeddings().weight.equal(before["lm_head.weight"])


def test_it_is_made_again_byte_for_byte(source: Path, tmp_path: Path) -> None:
    ablation = plan(source)
    assert Ablation.from_dict(ablation.to_dict()).to_dict() == ablation.to_dict()
    assert set(ablation.to_dict()["directions"]) == {
        "encoding",
        *(f"layer {n}" for n in range(LAYERS)),
    }
    saved = export(ablation, source, tmp_path / "saved", low_memory=True)
    settings = Settings(device="cpu", low_memory_export="false")
    reproduce(saved / "ablation.json", tmp_path / "again", settings)
    assert hashes(tmp_path / "again") == hashes(saved)


def test_the_controls_edit_them_too(source: Path, tmp_path: Path) -> None:
    saved = export(plan(source), source, tmp_path / "saved", low_memory=True)
    options = Settings(device="cpu", response_prefix="").model_dump()
    record = {**read_json(saved / "ablation.json"), "parameters": EDIT.to_dict()}

    found = evaluate_edit(
        lambda: load(source, response_prefix=""),
        lambda: load_edited(saved, options, str(source)),
        record,
        directions(2),
        HoldoutSets(PROMPTS[:2], PROMPTS[2:4]),
        HoldoutProtocol(4, 2, 100, 0),
        "true",
    ).table

    assert found["noop_identical"]
    assert found["controls"]["random_direction"]["kl_first_token"]["mean"] > 0


def test_an_adapter_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds the embeddings"):
        export(plan(source, export="adapter"), source, tmp_path / "a", low_memory=False)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("low_memory", [True, False])
def test_a_base_model_that_decodes_with_them_is_not_edited(
    source: Path, tmp_path: Path, low_memory: bool
) -> None:
    tied = save_tiny_model(tmp_path / "tied", "gemma")
    with pytest.raises(ModelLoadError, match="tie_word_embeddings"):
        export(plan(source), tied, tmp_path / "out", low_memory=low_memory)
    assert not (tmp_path / "out").exists()


def test_they_are_found_in_the_original_of_a_quantized_model(source: Path) -> None:
    model = with_embeddings(load(source))
    facts = {
        **model_facts(model),
        "writers": [writer.to_dict() for writer in record_writers(model.anatomy)],
        "shapes": [list(writer.shape) for writer in model.anatomy.writers],
    }
    ablation = plan(source)
    fitted = fit_to_original(ablation, facts, source, None, trust_remote_code=False)
    assert fitted.to_dict() == ablation.to_dict()


def test_the_card_says_where_they_are(source: Path) -> None:
    rows = edit_rows(plan(source).to_dict())
    assert EditRow("embed", "before the first", "0.9, 0.45", "the first layer's own") in rows

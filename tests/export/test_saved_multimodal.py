"""Exports of multimodal networks are complete: all that they see with, and their processors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edit_fixtures import PARAMETERS, directions, export, hashes, load, plan
from multimodal_models import FAMILIES, save_multimodal
from PIL import Image
from tiny_models import CHAT_TEMPLATE
from torch import Tensor
from transformers import AutoModelForMultimodalLM, AutoProcessor

from heretic.ablation.plan import plan_edits
from heretic.ablation.weight_editor import WeightEditor
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.export.adapter import attach_adapter

IDS = torch.tensor([[7, 42, 9, 100, 3]])


@pytest.fixture(scope="module", params=FAMILIES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_multimodal(tmp_path_factory.mktemp("base") / request.param, request.param)


def reloaded(folder: Path) -> Any:
    """What plain transformers makes of a folder, without a complaint."""
    kind: Any = AutoModelForMultimodalLM
    network, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return network


def processor_of(folder: Path) -> Any:
    kind: Any = AutoProcessor
    return kind.from_pretrained(folder)


def logits(network: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network(input_ids=IDS).logits
    return found


def test_both_ways_save_the_edited_network_whole(source: Path, tmp_path: Path) -> None:
    ablation = plan(source, norm_preservation="column")
    saved = export(ablation, source, tmp_path / "memory", low_memory=False)
    assert hashes(export(ablation, source, tmp_path / "files", low_memory=True)) == hashes(saved)
    model = load(source)
    pristine = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    before = logits(model.network)
    edits = plan_edits(PARAMETERS, directions(), model.anatomy)
    WeightEditor(model, LayerWeightsCache(model.anatomy), "column").abliterate(edits)

    again = reloaded(saved)

    torch.testing.assert_close(logits(again), logits(model.network), rtol=1e-4, atol=1e-4)
    assert (logits(again) - before).abs().max() > 0.05
    edited = {edit.writer.parameter_name for edit in edits}
    for name, tensor in again.state_dict().items():
        assert tensor.equal(pristine[name]) == (name not in edited), name


def test_an_adapter_for_a_multimodal_network(tmp_path: Path) -> None:
    source = save_multimodal(tmp_path / "base", "llava")
    adapter = export(plan(source, export="adapter"), source, tmp_path / "a", low_memory=False)
    merged = export(plan(source), source, tmp_path / "m", low_memory=True)
    attached = attach_adapter(load(source), adapter)
    torch.testing.assert_close(
        logits(attached.network), logits(reloaded(merged)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("low_memory", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_the_processor_is_saved_with_it(tmp_path: Path, low_memory: bool, legacy: bool) -> None:
    source = save_multimodal(tmp_path / "base", "llava")
    if legacy:  # as older versions saved it
        (source / "chat_template.jinja").unlink()
        text = json.dumps({"chat_template": CHAT_TEMPLATE})
        (source / "chat_template.json").write_text(text, encoding="utf-8")
        images = json.loads((source / "processor_config.json").read_text())["image_processor"]
        (source / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")

    saved = export(plan(source), source, tmp_path / "saved", low_memory=low_memory)

    names = {"processor_config.json", "tokenizer_config.json"}
    names |= (
        {"preprocessor_config.json", "chat_template.json"} if legacy else {"chat_template.jinja"}
    )
    for name in names:
        assert (saved / name).read_bytes() == (source / name).read_bytes()
    one, other = map(processor_of, (source, saved))
    assert type(other) is type(one)
    assert other.chat_template == one.chat_template == CHAT_TEMPLATE
    picture = Image.new("RGB", (28, 28), (200, 30, 30))
    seen = [processor.image_processor(picture)["pixel_values"] for processor in (one, other)]
    assert np.array_equal(*seen)


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_template_of_the_users_is_the_processors_as_well(tmp_path: Path, name: str) -> None:
    source = save_multimodal(tmp_path / "base", "llava")
    (source / "chat_template.jinja").unlink()
    known = json.loads((source / name).read_text()) if (source / name).exists() else {}
    (source / name).write_text(json.dumps({**known, "chat_template": CHAT_TEMPLATE}))
    mine = CHAT_TEMPLATE + "{{ 'Well' }}"

    saved = export(plan(source, chat_template=mine), source, tmp_path / "out", low_memory=True)

    processor = processor_of(saved)
    assert processor.chat_template == processor.tokenizer.chat_template == mine

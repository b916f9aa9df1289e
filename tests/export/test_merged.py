"""The saved folder is a standard model, whole, with what the checkpoint shipped beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from heretic.artifacts import read_json
from heretic.errors import ExportError
from heretic.export.layout import Layout
from heretic.export.manifest import manifest
from heretic.export.merged import save_model
from heretic.export.safetensors_writer import Blocks, write_shards
from heretic.model.loading import Model, load_model
from heretic.settings.schema import Settings

torch.set_num_threads(1)
RECORD = {"trial": 3, "edited": ["one"]}
IDS = torch.tensor([[5, 17, 80, 200, 31, 9]])


def load(folder: Path, **changes: Any) -> Model:
    settings = {**Settings(device="cpu").model_dump(), "model": str(folder), **changes}
    return load_model(**settings)


def edited(folder: Path, **changes: Any) -> Model:
    """A loaded model with every writer changed."""
    model = load(folder, **changes)
    for writer in model.anatomy.writers:
        writer.weight.mul_(0.5)
    return model


def logits(network: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(IDS).logits
    return found


@pytest.fixture(params=["llama", "gpt2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint with an unused file of each kind that models ship."""
    folder = save_tiny_model(tmp_path / "original", request.param)
    (folder / "LICENSE.txt").write_text("free")
    (folder / "NOTICE").write_text("note")
    (folder / "USE_POLICY.md").write_text("be kind")
    (folder / "qwen.tiktoken").write_text("IQ== 0")
    (folder / "preprocessor_config.json").write_text('{"size": 224}')
    (folder / "processor_config.json").write_text("{}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("tools")
    (folder / "README.md").write_text("the original's card")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    return folder


def test_the_saved_model_answers_as_the_one_in_memory(checkpoint: Path, tmp_path: Path) -> None:
    model = edited(checkpoint)
    save_model(model, tmp_path / "out" / "model", "5GB", RECORD)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert logits(again).equal(logits(model.network))
    original = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert not logits(again).allclose(logits(original))
    record = read_json(tmp_path / "out" / "model" / "ablation.json")
    files = record.pop("files")
    assert record == {**RECORD, "omitted": {"files": ["pytorch_model.bin.index.json"]}}
    assert files == {k: v for k, v in manifest(tmp_path / "out" / "model").items() if k in files}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= files.keys()
    assert not files.keys() & {"ablation.json", "README.md"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_what_the_edit_leaves_alone_is_taken_over_byte_for_byte(
    checkpoint: Path, tmp_path: Path
) -> None:
    # As many checkpoints have it: no padding token, padding on the right, flags that are warned of.
    config = read_json(checkpoint / "tokenizer_config.json")
    del config["pad_token"]
    config["padding_side"] = "right"
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    generation = {**read_json(checkpoint / "generation_config.json"), "temperature": 0.6}
    (checkpoint / "generation_config.json").write_text(json.dumps(generation))
    save_model(edited(checkpoint), tmp_path / "model", "5GB", RECORD)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "LICENSE.txt",
        "NOTICE",
        "USE_POLICY.md",
        "qwen.tiktoken",
        "preprocessor_config.json",
        "processor_config.json",
        "additional_chat_templates/tool.jinja",
    ):
        assert (tmp_path / "model" / name).read_bytes() == (checkpoint / name).read_bytes(), name
    saved = {path.name for path in (tmp_path / "model").iterdir()}
    assert not saved & {"README.md", "pytorch_model.bin.index.json"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.padding_side == "right"
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(checkpoint).chat_template


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_stay_tied_or_apart(tmp_path: Path, tied: bool) -> None:
    folder = save_tiny_model(tmp_path / "original", tie_word_embeddings=tied)
    save_model(edited(folder), tmp_path / "model", "5GB", RECORD)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    # PyTorch lists a shared parameter once, under its first name.
    assert ("lm_head.weight" in dict(again.named_parameters())) is not tied
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert stored.keys() == load_file(folder / "model.safetensors").keys()
    assert ("lm_head.weight" in stored) is not tied


def test_shards_and_a_smaller_dtype(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "original")
    model = edited(folder, dtype="bfloat16")
    save_model(model, tmp_path / "model", "40KB", RECORD)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    assert (tmp_path / "model" / "model.safetensors.index.json").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.dtype == torch.bfloat16
    assert logits(again).equal(logits(model.network))


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error")])
@pytest.mark.parametrize("when", ["weights", "files"])
def test_a_full_disk_leaves_nothing_new_and_nothing_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, when: str
) -> None:
    folder = save_tiny_model(tmp_path / "original")
    target = tmp_path / "out" / "model"
    target.mkdir(parents=True)
    (target / "old.txt").write_text("the former model")
    model = edited(folder)

    def fail(*_: object, **__: object) -> None:
        raise error

    if when == "weights":
        monkeypatch.setattr("heretic.export.merged.write_shards", fail)
    else:
        monkeypatch.setattr("heretic.export.copied_files.shutil.copyfile", fail)
    with pytest.raises(ExportError, match=r"cannot write .*model: .*; free some space"):
        save_model(model, target, "5GB", RECORD)
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert [path.name for path in target.iterdir()] == ["old.txt"]


def spoiling(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let something change the weights just after they were written."""

    def save_and_spoil(layout: Layout, folder: Path, blocks: Blocks) -> None:
        write_shards(layout, folder, blocks)
        path = folder / "model.safetensors"
        stored = change(load_file(path))
        save_file(stored, path, metadata={"format": "pt"})

    monkeypatch.setattr("heretic.export.merged.write_shards", save_and_spoil)


@pytest.mark.parametrize("name", ["layers.1.mlp.down_proj", "layers.2.self_attn.q_proj", "norm"])
def test_a_tensor_that_was_not_written_as_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whether it was edited or not: the smallest change of one value is seen."""
    model = edited(save_tiny_model(tmp_path / "original"))
    full = f"model.{name}.weight"

    def nudge(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        first = stored[full].view(-1)
        first[-1] = torch.nextafter(first[-1], torch.tensor(9.0))
        return stored

    spoiling(monkeypatch, nudge)
    with pytest.raises(
        ExportError, match=rf"{full} was not saved as the expected edit of the base model"
    ):
        save_model(model, tmp_path / "out" / "model", "5GB", RECORD)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stored: {k: t for k, t in stored.items() if "norm" not in k}, "no tensor model"),
        (lambda stored: {**stored, "more": torch.ones(3)}, "an unknown tensor more"),
        (
            lambda stored: {
                k: t.bfloat16() if k == "lm_head.weight" else t for k, t in stored.items()
            },
            "lm_head.weight was not saved",
        ),
    ],
)
def test_a_tensor_too_few_too_many_or_of_another_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, words: str
) -> None:
    model = edited(save_tiny_model(tmp_path / "original"))
    spoiling(monkeypatch, change)
    with pytest.raises(ExportError, match=words):
        save_model(model, tmp_path / "out" / "model", "5GB", RECORD)


def test_a_model_changed_elsewhere_than_in_its_writers_is_refused(tmp_path: Path) -> None:
    model = edited(save_tiny_model(tmp_path / "original"))
    layer: Any = model.anatomy.layers[0]
    layer.self_attn.q_proj.weight.data[0, 0] += 1
    with pytest.raises(ExportError, match=r"layers\.0\.self_attn\.q_proj\.weight was not saved"):
        save_model(model, tmp_path / "model", "5GB", RECORD)


def test_only_the_named_parameters_may_differ(tmp_path: Path) -> None:
    model = edited(save_tiny_model(tmp_path / "original"))
    one = {"model.layers.0.mlp.down_proj.weight"}
    with pytest.raises(ExportError, match="was not saved as the expected edit"):
        save_model(model, tmp_path / "model", "5GB", RECORD, one)


def test_a_model_that_is_not_as_in_memory_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = edited(save_tiny_model(tmp_path / "original"))
    unedited = load_file(tmp_path / "original" / "model.safetensors")
    spoiling(monkeypatch, lambda stored: unedited)
    with pytest.raises(ExportError, match="was not saved as the expected edit"):
        save_model(model, tmp_path / "out" / "model", "5GB", RECORD)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_manifest_names_every_file_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.bin").write_bytes(b"abc")
    (tmp_path / "a.txt").write_bytes(b"")
    found = manifest(tmp_path)
    assert list(found) == ["a.txt", "deep/b.bin"]
    assert found["deep/b.bin"] == {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3}
    (tmp_path / "deep" / "b.bin").write_bytes(b"abd")
    assert manifest(tmp_path)["deep/b.bin"] != found["deep/b.bin"]

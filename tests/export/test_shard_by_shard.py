"""Both ways of exporting write the same bytes, and only the edited tensors differ."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.low_memory_export import compare, report
from edit_fixtures import directions, export, hashes, load, plan
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import LAYERS, save_tiny_model
from transformers import AutoModelForCausalLM

from heretic.ablation.disk_weights import tensor_files
from heretic.ablation.projection import NormPreservation, ablate_matrix
from heretic.errors import ExportError
from heretic.model.headers import INDEX

torch.set_num_threads(1)
THREE_SHARDS = "80KB"
# Blocks in float64, and what is not of the weights.
CONSTANT = 32 * 2**20


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in set(tensor_files(folder).values()):
        found.update(load_file(path))
    return found


def both_ways(source: Path, tmp_path: Path, **settings: Any) -> tuple[Path, Path]:
    ablation = plan(source, **settings)
    ways = {False: tmp_path / "in-memory" / "model", True: tmp_path / "by-shard" / "model"}
    for low_memory, target in ways.items():
        export(ablation, source, target, low_memory=low_memory)
    return ways[False], ways[True]


def test_three_shards_give_the_same_files(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", max_shard_size=THREE_SHARDS)
    assert len(set(tensor_files(source).values())) == 3

    memory, files = both_ways(source, tmp_path, max_shard_size=THREE_SHARDS)

    assert len(list(files.glob("*.safetensors"))) == 3
    assert (files / INDEX).is_file()
    assert hashes(files) == hashes(memory)


def test_shards_are_split_only_if_those_of_the_base_model_are_too_large(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", max_shard_size=THREE_SHARDS)
    before = json.loads((source / INDEX).read_text())

    memory, files = both_ways(source, tmp_path / "kept", max_shard_size="5GB")

    assert json.loads((files / INDEX).read_text()) == before
    assert hashes(files) == hashes(memory)

    memory, files = both_ways(source, tmp_path / "split", max_shard_size="20KB")

    assert len(list(files.glob("*.safetensors"))) > 3
    assert json.loads((files / INDEX).read_text())["metadata"] == before["metadata"]
    assert hashes(files) == hashes(memory)


def test_shards_keep_the_names_and_the_order_of_the_base_model(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", max_shard_size=THREE_SHARDS)
    index = json.loads((source / INDEX).read_text())
    moved = {name: f"model.{file}" for name, file in index["weight_map"].items()}
    for file in set(index["weight_map"].values()):
        (source / file).rename(source / f"model.{file}")
    (source / INDEX).write_text(json.dumps({**index, "weight_map": moved}))

    memory, files = both_ways(source, tmp_path)

    assert json.loads((files / INDEX).read_text())["weight_map"] == moved
    assert hashes(files) == hashes(memory)


@pytest.mark.parametrize("norm_preservation", ["none", "column", "row", "frobenius"])
@pytest.mark.parametrize(("family", "k"), [("llama", 1), ("gpt2", 1), ("gpt2", 2), ("qwen2", 2)])
def test_families_and_norms(tmp_path: Path, family: str, k: int, norm_preservation: str) -> None:
    """GPT-2 keeps its matrices transposed and writes biases into the stream."""
    source = save_tiny_model(tmp_path / "base", family, dtype=torch.bfloat16)
    memory, files = both_ways(
        source, tmp_path, k=k, norm_preservation=norm_preservation, max_shard_size="30KB"
    )
    assert hashes(files) == hashes(memory)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_stay_tied_or_apart(tmp_path: Path, tied: bool) -> None:
    source = save_tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    memory, files = both_ways(source, tmp_path)
    assert hashes(files) == hashes(memory)
    assert ("lm_head.weight" in tensors(files)) is not tied


def test_a_tied_head_that_the_checkpoint_repeats_is_left_out(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", tie_word_embeddings=True)
    stored = load_file(source / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    memory, files = both_ways(source, tmp_path)
    assert hashes(files) == hashes(memory)


@pytest.mark.parametrize(
    ("stored", "loaded"),
    [(torch.bfloat16, "float32"), (torch.float32, "bfloat16"), (torch.float32, "float16")],
)
def test_another_dtype_than_the_checkpoint_has(
    tmp_path: Path, stored: torch.dtype, loaded: str
) -> None:
    source = save_tiny_model(tmp_path / "base", dtype=stored)
    memory, files = both_ways(source, tmp_path, dtype=loaded)
    assert hashes(files) == hashes(memory)
    assert {tensor.dtype for tensor in tensors(files).values()} == {getattr(torch, loaded)}
    assert json.loads((files / "config.json").read_text())["dtype"] == loaded


def test_a_checkpoint_of_the_bare_decoder(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", "gpt2")
    stored = load_file(source / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    save_file(bare, source / "model.safetensors", metadata={"format": "pt"})
    memory, files = both_ways(source, tmp_path)
    assert hashes(files) == hashes(memory)
    assert tensors(files).keys() == stored.keys()


def test_only_the_edited_tensors_differ_and_by_the_edit(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", max_shard_size=THREE_SHARDS)
    _, files = both_ways(source, tmp_path, k=2, norm_preservation="column")
    before, after = tensors(source), tensors(files)
    attention = {f"model.layers.{layer}.self_attn.o_proj.weight": 1.2 for layer in range(LAYERS)}
    mlp = {f"model.layers.{layer}.mlp.down_proj.weight": 0.7 for layer in (1, 2)}
    strengths = attention | mlp
    kind: NormPreservation = "column"
    assert {name for name in before if not before[name].equal(after[name])} == strengths.keys()
    for name, strength in strengths.items():
        rows = directions(2).rows[int(name.split(".")[2]) + 1]
        expected = ablate_matrix(before[name], rows, (strength, strength / 2), kind)
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-6)


def test_it_answers_as_the_edited_model(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base", "gpt2", max_shard_size=THREE_SHARDS)
    memory, files = both_ways(source, tmp_path)
    ids = torch.tensor([[5, 17, 80, 200]])
    with torch.no_grad():
        found = [
            AutoModelForCausalLM.from_pretrained(folder)(ids).logits
            for folder in (source, memory, files)
        ]
    assert found[1].equal(found[2])
    assert not found[0].allclose(found[1])


def test_a_type_of_each_kind_is_written_as_the_library_does(tmp_path: Path) -> None:
    from heretic.export.checkpoint import DTYPES
    from heretic.export.layout import Layout
    from heretic.export.safetensors_writer import write_shards

    held = {
        f'"é {number}\\': torch.arange(number + 3).to(dtype) for number, dtype in enumerate(DTYPES)
    }
    held |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    layout = Layout(held, {}, {"model.safetensors": list(held)}, 0, 0)
    write_shards(layout, tmp_path, lambda name, dtype: iter([held[name]]))
    save_file(held, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    ours = (tmp_path / "model.safetensors").read_bytes()
    assert ours == (tmp_path / "theirs.safetensors").read_bytes()


def test_a_tensor_that_the_files_lack_or_have_in_another_shape_is_refused(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    ablation = plan(source)
    whole = load_file(source / "model.safetensors")
    name = "model.norm.weight"
    without = {key: tensor for key, tensor in whole.items() if key != name}
    for stored, words in (
        (without, f"does not hold {name} under the name.*low_memory_export=false"),
        ({**whole, name: torch.zeros(3)}, "cannot lay out the model"),
    ):
        save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ExportError, match=words):
            export(ablation, source, tmp_path / "out" / "model", low_memory=True)
    assert not (tmp_path / "out").exists()


def test_a_search_on_another_model_is_refused(tmp_path: Path) -> None:
    gpt2 = plan(save_tiny_model(tmp_path / "gpt2", "gpt2"))
    llama = save_tiny_model(tmp_path / "llama")
    for low_memory in (True, False):
        with pytest.raises(ExportError, match=r"transformer\.h\.0\.attn\.c_proj"):
            export(gpt2, llama, tmp_path / "out" / "model", low_memory=low_memory)
    assert not (tmp_path / "out" / "model").exists()


def test_the_index_and_the_metadata_are_those_of_the_library(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "base")
    ablation = plan(source, max_shard_size=THREE_SHARDS)
    target = export(ablation, source, tmp_path / "model", low_memory=True)
    load(source).network.save_pretrained(tmp_path / "theirs", max_shard_size=THREE_SHARDS)
    assert (target / INDEX).read_bytes() == (tmp_path / "theirs" / INDEX).read_bytes()
    with safe_open(next(target.glob("*.safetensors")), framework="pt") as found:
        assert found.metadata() == {"format": "pt"}


@pytest.mark.heavy
def test_its_peak_memory_is_that_of_one_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    """Measured in processes of their own, on 270 MB of weights whose largest tensor has 32 MB."""
    found = compare(width=2048, layers=2)
    with capsys.disabled():
        print(f"\n{report(found)}")  # noqa: T201
    assert found["by_shard"] < 1.5 * found["largest"] + CONSTANT
    assert found["in_memory"] > 3 * found["by_shard"]

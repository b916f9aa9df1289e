"""Experts stored as one or one by one, and writers behind norms, are exported as they are edited.

In these checkpoints of Mixtral and Qwen3-MoE each expert has tensors of its own, as on the hub; the
network joins them. Those of gpt-oss are one tensor on disk as well, transposed and with biases.
"""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import pytest
import torch
from edit_fixtures import PARAMETERS, best_of, directions, export, hashes, load
from safetensors.torch import load_file, save_file
from tiny_models import D_MODEL, save_tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, conversion_mapping
from transformers.core_model_loading import Transpose, WeightConverter

from heretic.ablation.disk_weights import tensor_files
from heretic.ablation.plan import plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.ablation.records import check_adapter
from heretic.ablation.weight_editor import WeightEditor
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.artifacts import read_json
from heretic.commands.verify import verify
from heretic.errors import ExportError
from heretic.export.merged import edit_in_memory, save_model
from heretic.export.record import Ablation
from heretic.export.reproduce import reproduce
from heretic.settings.schema import Settings

torch.set_num_threads(1)
FAMILIES = ("llama", "gpt2", "mixtral", "qwen3_moe", "gemma2", "olmo2", "gpt_oss")
PACKED = ("mixtral", "qwen3_moe", "gpt_oss")
IDS = torch.tensor([[5, 17, 80, 200, 31, 9]])
SHARDS = "60KB"
SETTINGS = Settings(device="cpu")


@cache
def base(family: str, **changes: Any) -> Path:
    """A checkpoint in several shards, the same for all tests."""
    return save_tiny_model(Path(mkdtemp()) / family, family, max_shard_size=SHARDS, **changes)


@cache
def best(source: Path) -> dict[str, Any]:
    return best_of(source)


def plan(source: Path, k: int = 1, **settings: Any) -> Ablation:
    chosen = Settings(**{"max_shard_size": SHARDS, **settings}).model_dump()
    found = best(source)
    return Ablation.plan(found["parameters"], found["model"], directions(k), chosen)


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in set(tensor_files(folder).values()):
        found.update(load_file(path))
    return found


def logits(network: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(IDS).logits
    return found


def reloaded(folder: Path) -> Any:
    """What plain transformers makes of a folder, without a complaint."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    network, report = loaded
    assert not any(report.values()), report
    return network


def both_ways(source: Path, tmp_path: Path, **settings: Any) -> Path:
    """An export from memory, after one file by file has turned out the same."""
    ablation = plan(source, **settings)
    memory = export(ablation, source, tmp_path / "memory", low_memory=False)
    files = export(ablation, source, tmp_path / "files", low_memory=True)
    assert hashes(files) == hashes(memory)
    return memory


@pytest.mark.parametrize("norm_preservation", ["none", "column"])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_the_edited_model(
    tmp_path: Path, family: str, k: int, norm_preservation: NormPreservation
) -> None:
    source = base(family)
    saved = both_ways(source, tmp_path, k=k, norm_preservation=norm_preservation)
    model = load(source)
    before, parameters = logits(model.network), {**model.network.state_dict()}
    pristine = {name: tensor.clone() for name, tensor in parameters.items()}
    edits = plan_edits(PARAMETERS, directions(k), model.anatomy)
    WeightEditor(model, LayerWeightsCache(model.anatomy), norm_preservation).abliterate(edits)

    again = reloaded(saved)

    torch.testing.assert_close(logits(again), logits(model.network), rtol=1e-4, atol=1e-4)
    assert (logits(again) - before).abs().max() > 0.1
    names = {name for e in edits for name in (e.writer.parameter_name, e.writer.bias_name)}
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, parameters[name], rtol=1e-5, atol=1e-6)
        assert tensor.equal(pristine[name]) == (name not in names), name


@pytest.mark.parametrize("family", PACKED)
def test_the_files_have_the_tensors_of_the_base_models_files(tmp_path: Path, family: str) -> None:
    source = base(family)
    before, after = tensors(source), tensors(both_ways(source, tmp_path))
    assert {name: tensor.shape for name, tensor in after.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    kinds = ("o_proj.", "w2.", "down_proj")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert all(any(kind in name for kind in kinds) for name in changed)


def test_more_than_ten_experts_stay_in_their_order(tmp_path: Path) -> None:
    source = base("mixtral", num_local_experts=12)
    saved = both_ways(source, tmp_path, norm_preservation="column")
    name = "model.layers.2.block_sparse_moe.experts.{}.w2.weight"
    before, after = tensors(source), tensors(saved)
    unit = directions().rows[3, 0]
    for expert in range(12):
        one, other = before[name.format(expert)].float(), after[name.format(expert)].float()
        torch.testing.assert_close(other.norm(dim=0), one.norm(dim=0), rtol=1e-4, atol=1e-4)
        beside = torch.nn.functional.normalize(one - 0.7 * torch.outer(unit, unit @ one), dim=0)
        torch.testing.assert_close(
            torch.nn.functional.normalize(other, dim=0), beside, rtol=0, atol=1e-5
        )


def test_experts_that_the_checkpoint_holds_as_one(tmp_path: Path) -> None:
    """As a network saves them that was told not to restore its family's usual form."""
    source = base("qwen3_moe")
    packed = save_tiny_model(tmp_path / "packed", "qwen3_moe")
    network = AutoModelForCausalLM.from_pretrained(source)
    network.save_pretrained(packed, save_original_format=False)
    saved = both_ways(packed, tmp_path)
    assert tensors(saved)["model.layers.0.mlp.experts.down_proj"].shape == (4, D_MODEL, 16)
    split = export(plan(source), source, tmp_path / "split", low_memory=True)
    for name, tensor in reloaded(split).state_dict().items():
        assert tensor.equal(reloaded(saved).state_dict()[name])


def test_a_device_map_does_not_change_the_files(tmp_path: Path) -> None:
    """To transformers, what a map puts on the CPU is offloaded."""
    source = base("mixtral")
    ablation = plan(source)
    model = load(source, device_map="auto")
    changed = edit_in_memory(model, ablation)
    save_model(model, tmp_path / "mapped", SHARDS, ablation.to_dict(), changed)
    files = export(ablation, source, tmp_path / "files", low_memory=True)
    names = [name for name in hashes(files) if name != "ablation.json"]
    assert {name: hashes(tmp_path / "mapped")[name] for name in names} == {
        name: hashes(files)[name] for name in names
    }


@pytest.mark.parametrize("low_memory", ["true", "false"])
@pytest.mark.parametrize("family", ["qwen3_moe", "olmo2"])
def test_it_is_made_again_byte_for_byte(
    tmp_path: Path, family: str, low_memory: Literal["true", "false"]
) -> None:
    source = base(family)
    saved = both_ways(source, tmp_path, k=2)
    settings = Settings(device="cpu", low_memory_export=low_memory)
    reproduce(saved / "ablation.json", tmp_path / "again", settings)
    assert hashes(tmp_path / "again") == hashes(saved)


def test_what_suits_a_norm_is_recorded_once_for_each(tmp_path: Path) -> None:
    ablation = plan(base("gemma2"), k=2)
    record = ablation.to_dict()
    assert set(record["directions"]) == {
        "encoding",
        "layer 0",
        "layer 1",
        "layer 2",
        "layer 1, mlp.down_proj",
        "layer 2, mlp.down_proj",
    }
    assert all("gain" not in edit for edit in record["edits"])
    again = Ablation.from_dict(record)
    assert again.to_dict() == record
    for one, other in zip(ablation.edits, again.edits, strict=True):
        assert one.directions.equal(other.directions)


def test_no_adapter_holds_experts_that_are_one_parameter(tmp_path: Path) -> None:
    source = base("mixtral")
    ablation = plan(source, export="adapter")
    words = r"experts\.down_proj does not belong to a linear module.*set export=merged"
    with pytest.raises(ExportError, match=words):
        export(ablation, source, tmp_path / "adapter", low_memory=False)
    with pytest.raises(ExportError, match=words):
        check_adapter("adapter", [edit.writer for edit in ablation.edits])
    check_adapter("merged", [edit.writer for edit in ablation.edits])


def test_an_adapter_along_what_suits_a_norm(tmp_path: Path) -> None:
    from peft import PeftModel

    source = base("gemma2")
    adapter = export(plan(source, export="adapter", k=2), source, tmp_path / "a", low_memory=False)
    merged = export(plan(source, k=2), source, tmp_path / "m", low_memory=True)
    attached: Any = PeftModel.from_pretrained(reloaded(source), str(adapter))
    torch.testing.assert_close(logits(attached), logits(reloaded(merged)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("if_need_be", "words"),
    [(False, "has a different layout on disk than in the network"), (True, r"shape \(32, 48\)")],
)
def test_matrices_that_are_transposed_on_loading_need_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, if_need_be: bool, words: str
) -> None:
    """As some families have it, transposed back on saving or, where only if need be, left so."""
    transpose = WeightConverter(
        "mlp.down_proj.weight", "mlp.down_proj.weight", [Transpose(0, 1, check_dims=if_need_be)]
    )
    make_table: Any = conversion_mapping.get_checkpoint_conversion_mapping
    make_table("llama")
    table: Any = conversion_mapping._checkpoint_conversion_mapping_cache
    monkeypatch.setitem(table, "llama", [transpose])
    source = save_tiny_model(tmp_path / "base")
    path = source / "model.safetensors"
    flipped = {
        name: tensor.mT.contiguous() if "down" in name and tensor.shape[0] == D_MODEL else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(flipped, path, metadata={"format": "pt"})
    ablation = plan(source, norm_preservation="column")

    saved = export(ablation, source, tmp_path / "saved", low_memory=False)
    with pytest.raises(ExportError, match=f"{words}.*low_memory_export=false"):
        export(ablation, source, tmp_path / "out", low_memory=True)

    assert not (tmp_path / "out").exists()
    model = load(source)
    edit_in_memory(model, ablation)
    assert logits(reloaded(saved)).equal(logits(model.network))
    shape = (D_MODEL, 48) if if_need_be else (48, D_MODEL)
    assert tensors(saved)["model.layers.0.mlp.down_proj.weight"].shape == shape
    assert all(check.passed for check in verify(saved, SETTINGS))
    stored = tensors(saved)
    for part in ("down_proj", "up_proj"):  # edited and not
        name = f"model.layers.0.mlp.{part}.weight"
        path = tensor_files(saved)[name]
        kept = path.read_bytes()
        save_file({**load_file(path), name: stored[name] + 1}, path)
        found = [check.found for check in verify(saved, SETTINGS) if check.name == "tensors"]
        assert found[0].startswith(f"{name} differs from")
        path.write_bytes(kept)


def test_the_record_of_the_search_carries_gains_and_experts(tmp_path: Path) -> None:
    ablation = plan(base("gpt_oss"))
    experts = [edit.writer for edit in ablation.edits if edit.writer.experts]
    assert {writer.experts for writer in experts} == {4}
    assert all(writer.transposed and writer.bias for writer in experts)
    assert experts[0].parameter_name == "model.layers.1.mlp.experts.down_proj"
    assert experts[0].bias_name == "model.layers.1.mlp.experts.down_proj_bias"
    folder = export(ablation, base("gpt_oss"), tmp_path / "out", low_memory=True)
    assert Ablation.from_dict(read_json(folder / "ablation.json")).to_dict() == ablation.to_dict()

"""The original weights come back bit for bit, from wherever they are kept, in every family."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import load_saved, save_tiny_model
from torch import Tensor

from heretic.ablation.disk_weights import DiskWeights
from heretic.ablation.plan import Edit
from heretic.ablation.weight_editor import OriginalWeights, WeightEditor
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.model.loading import Model

# Dense, transposed, packed experts in two layouts of files and transposed with biases, and hybrids
# whose layers have one component each or a state space beside attention.
FAMILIES = ("llama", "gpt2", "mixtral", "qwen3_moe", "gpt_oss", "nemotron_h", "falcon_h1")


@dataclass
class Case:
    """A loaded model, its original weights, and an editor for each way back."""

    model: Model
    original: dict[str, Tensor] = field(init=False)
    sources: dict[str, OriginalWeights] = field(init=False)

    def __post_init__(self) -> None:
        self.original = self.state()
        self.sources = {
            "model": LayerWeightsCache(self.model.anatomy, "model"),
            "host": LayerWeightsCache(self.model.anatomy, "host"),
            "disk": DiskWeights(self.model),
        }

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.network.state_dict().items()}

    def edits(self, seed: int) -> list[Edit]:
        """Random directions and strengths for a random half of the writers."""
        draw = torch.Generator().manual_seed(seed)
        chosen = []
        for writer in self.model.anatomy.writers:
            rows = torch.randn(2, self.model.anatomy.d_model, generator=draw)
            coin, strength = torch.rand(2, generator=draw).tolist()
            if coin < 0.5:
                directions = torch.linalg.qr(rows.T).Q.T.contiguous()
                chosen.append(Edit(writer, directions, (2 * strength, strength)))
        return chosen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@cache
def case(folder: Path, family: str) -> Case:
    saved = save_tiny_model(folder / family, family, dtype=torch.bfloat16)
    return Case(load_saved(saved, dtype="bfloat16"))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=6)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=3))
def test_all_ways_edit_alike_and_lead_back(folder: Path, family: str, seeds: Sequence[int]) -> None:
    found = case(folder, family)
    edited = []
    for source in found.sources.values():
        editor = WeightEditor(found.model, source, "column")
        for seed in seeds:
            editor.abliterate(found.edits(seed))
        edited.append(found.state())
        editor.restore()
        assert same(found.original, found.state())

    assert all(same(edited[0], state) for state in edited[1:])
    assert same(edited[0], found.original) == (not found.edits(seeds[-1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_way_can_be_left_for_another(folder: Path, family: str) -> None:
    """What one way restores is what the others hold, in shape, strides and bits."""
    found = case(folder, family)

    for writer in found.model.anatomy.writers:
        first, *others = (source.pristine(writer) for source in found.sources.values())
        for other in others:
            assert len(first.tensors) == len(other.tensors) == 1 + (writer.bias is not None)
            for one, two in zip(first.tensors, other.tensors, strict=True):
                assert one.equal(two)
                assert one.stride() == two.stride()
                assert one.dtype == two.dtype == torch.bfloat16

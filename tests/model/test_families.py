"""Every family of models: its writers are found, and an edit does what its formula says.

The edited network is held against the same network with weights that are computed here from the
formula, matrix by matrix; so is the output side, where it is defined. `pytest -s` prints how far
each family and edit is from the reference in float64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tiny_models import tiny_tokenizer
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from architecture_sweep import random_network, updates
from heretic.ablation.directions import AblationDirections
from heretic.ablation.hook_editor import HookEditor
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weight_editor import WeightEditor
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.errors import ModelLoadError
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import StreamWriter, find_stream_writers
from heretic.model.stream_writers.components import ATTENTION, COMPONENTS, MLP
from heretic.model.stream_writers.layers import few_tokens

# Maps that mix positions and maps that do not, in four layers.
FAMILIES = {
    "bamba": (4, 4),  # state space and attention
    "cohere": (4, 4),  # attention and MLP side by side
    "dbrx": (4, 4),  # experts in one matrix
    "deepseek_v2": (4, 7),  # experts beside shared ones, first layer dense
    "deepseek_v3": (4, 7),
    "falcon_h1": (8, 4),  # state space beside attention
    "gemma2": (4, 4),  # norms before the stream
    "gemma3": (4, 4),  # text and images
    "gemma3_text": (4, 4),
    "gemma4_text": (4, 8),  # embeddings for each layer
    "glm4": (4, 4),
    "gpt2": (4, 4),
    "gpt_neox": (4, 4),
    "gpt_oss": (4, 4),  # experts transposed, with biases
    "granite": (4, 4),
    "granitemoehybrid": (4, 8),
    "jamba": (4, 4),
    "lfm2": (4, 4),  # convolutions
    "llama": (4, 4),
    "llama4_text": (4, 8),
    "mistral": (4, 4),
    "mixtral": (4, 4),
    "nemotron_h": (2, 3),  # one component a layer
    "olmo2": (4, 4),
    "phi": (4, 4),
    "phi3": (4, 4),
    "phimoe": (4, 4),
    "qwen2": (4, 4),
    "qwen3": (4, 4),
    "qwen3_5_moe_text": (4, 8),
    "qwen3_5_text": (4, 4),  # gated delta nets
    "qwen3_moe": (4, 4),
    "qwen3_next": (4, 8),
    "smollm3": (4, 4),
    "stablelm": (4, 4),
}
# Norms and state spaces compute in float32 whatever the weights are.
TOLERANCE = 1e-6
TOKENS = 12


@cache
def model_of(family: str) -> Model:
    network = random_network(family, torch.float64)
    chat = ChatFormat(tiny_tokenizer(), "")
    return Model(network, chat, find_stream_writers(network), Path(), BatchSize(1))


def logits(network: PreTrainedModel, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    with torch.inference_mode():
        output: Any = functional_call(
            network, dict(weights or {}), kwargs=few_tokens(network, TOKENS)
        )
    found: Tensor = output.logits
    return found


def state(network: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def along(directions: Tensor, writer: StreamWriter) -> Tensor:
    """The projection [d_model, d_model] onto what a writer must not write."""
    suited = directions.double() if writer.gain is None else directions * writer.gain
    basis = torch.linalg.qr(suited.double().T).Q
    projection: Tensor = basis @ basis.T
    return projection


def expected(writer: StreamWriter, directions: Tensor, norms: NormPreservation) -> Tensor:
    """The matrix as the formula has it, in the writer's own shape."""
    weight = writer.weight
    left = torch.eye(len(directions.T)).double() - along(directions, writer)
    edited = torch.einsum("ij,...jk->...ik", left, weight)
    dims = {"none": (), "column": (-2,), "row": (-1,), "frobenius": (-2, -1)}[norms]
    if dims:
        edited = edited * (
            weight.norm(dim=dims, keepdim=True) / edited.norm(dim=dims, keepdim=True)
        )
    return edited


def reference(model: Model, directions: Tensor, norms: NormPreservation) -> dict[str, Tensor]:
    """Parameters that the formula changes, by name, as they are stored."""
    found = {}
    for writer in model.anatomy.writers:
        of_layer = directions[writer.layer + 1]
        weight = expected(writer, of_layer, norms)
        found[writer.parameter_name] = weight.mT if writer.transposed else weight
        if writer.bias is not None and writer.bias_name is not None:
            found[writer.bias_name] = writer.bias - writer.bias @ along(of_layer, writer)
    return found


COLUMNS = ("logits", "left of the directions", "output side")


@dataclass
class Largest:
    """The largest deviation by family and edit, and by what was compared."""

    of: dict[tuple[str, str], dict[str, float]]

    def note(self, family: str, norms: str, what: str, deviation: float) -> float:
        row = self.of.setdefault((family, norms), {})
        row[what] = max(row.get(what, 0.0), deviation)
        return deviation


@pytest.fixture(scope="module")
def largest() -> Iterator[Largest]:
    found = Largest({})
    yield found
    lines = [f"{'family':18} {'norms':10} " + " ".join(f"{name:>22}" for name in COLUMNS)]
    for (family, norms), row in sorted(found.of.items()):
        cells = (f"{row[name]:.1e}" if name in row else "-" for name in COLUMNS)
        lines.append(f"{family:18} {norms:10} " + " ".join(f"{cell:>22}" for cell in cells))
    print("\n" + "\n".join(lines))  # noqa: T201


@pytest.mark.parametrize("family", FAMILIES)
def test_the_writers_are_found(family: str) -> None:
    writers = model_of(family).anatomy.writers

    attention = [writer for writer in writers if writer.component == ATTENTION]
    mlp = [writer for writer in writers if writer.component == MLP]
    assert (len(attention), len(mlp)) == FAMILIES[family]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("norms", get_args(NormPreservation))
@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_does_what_its_formula_says(
    family: str, norms: NormPreservation, count: int, largest: Largest
) -> None:
    model = model_of(family)
    n_layers, d_model = model.anatomy.n_layers, model.anatomy.d_model
    draw = torch.Generator().manual_seed(3)
    drawn = torch.randn(n_layers + 1, d_model, count, generator=draw, dtype=torch.float64)
    rows = torch.linalg.qr(drawn).Q.mT
    whole = {name: ComponentParameters(0, 1, 1.0) for name in COMPONENTS}
    edits = plan_edits(
        AblationParameters("per_layer", None, whole), AblationDirections.of(rows), model.anatomy
    )
    before, untouched = state(model.network), logits(model.network)
    wanted = logits(model.network, reference(model, rows, norms))
    editor = WeightEditor(model, LayerWeightsCache(model.anatomy), norms)

    editor.abliterate(edits)
    edited, written = logits(model.network), updates(model.network, model.anatomy)
    editor.restore()

    assert len(edits) == len(model.anatomy.writers)
    off = float((edited - wanted).abs().max() / wanted.abs().max())
    assert largest.note(family, norms, "logits", off) < TOLERANCE
    assert float((edited - untouched).abs().max()) > 1e-3
    if norms != "row":  # which puts part of the directions back
        left = [
            (update @ rows[layer + 1].T).abs().max() / update.norm(dim=-1).max()
            for layer, update in enumerate(written)
        ]
        assert largest.note(family, norms, "left of the directions", float(max(left))) < TOLERANCE
    if norms == "none" or not any(writer.is_raw for writer in model.anatomy.writers):
        other = HookEditor(model, norms)
        other.abliterate(edits)
        off = float((logits(model.network) - wanted).abs().max() / wanted.abs().max())
        assert largest.note(family, norms, "output side", off) < TOLERANCE
        other.restore()
        assert logits(model.network).equal(untouched)
    else:
        with pytest.raises(ModelLoadError, match="run with edit_mode=weights"):
            HookEditor(model, norms)
    after = model.network.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


# Which put out rows of some tokens, or one for each token and expert.
APART = ("dbrx", "llama4_text")


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_one_batch_may_belong_to_two_trials(family: str) -> None:
    model = model_of(family)
    whole = AblationParameters(
        "per_layer", None, {name: ComponentParameters(0, 1, 1.0) for name in COMPONENTS}
    )
    draw = torch.Generator().manual_seed(5)
    shape = model.anatomy.n_layers + 1, model.anatomy.d_model, 1
    trials = [
        plan_edits(whole, AblationDirections.of(torch.linalg.qr(drawn).Q.mT), model.anatomy)
        for drawn in torch.randn(2, *shape, generator=draw, dtype=torch.float64)
    ]
    packed = any(writer.is_raw for writer in model.anatomy.writers)
    editor = HookEditor(model, "none" if packed else "column")
    assert (editor.max_trials == 1) == (family in APART)
    if family in APART:
        return
    tokens = {
        name: torch.cat([value, value.flip(-1)]) if isinstance(value, Tensor) else value
        for name, value in few_tokens(model.network, TOKENS).items()
    }

    def found() -> Tensor:
        with torch.inference_mode():
            output: Any = model.network(**tokens)
        logits: Tensor = output.logits
        return logits

    alone = []
    for edits in trials:
        editor.abliterate(edits)
        alone.append(found())
    editor.load(trials)
    editor.assign(torch.tensor([1, 0]))
    mixed = found()
    editor.restore()

    expected = torch.stack([alone[1][0], alone[0][1]])
    assert (mixed - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert (alone[0] - alone[1]).abs().max() > 1e-2 * expected.abs().max()

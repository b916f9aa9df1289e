"""Tiny checkpoints that bitsandbytes can quantize, and edits of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_models import LAYERS, save_tiny_model
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.plan import Edit
from heretic.ablation.records import record_writers
from heretic.artifacts import read_json
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.protocol import evaluate_edit
from heretic.model.loading import Model, model_facts
from heretic.prompts.prompt import Prompt

WIDTH = 64
KINDS = ("bnb_4bit", "bnb_8bit")
WIDER: dict[str, Any] = {"hidden_size": WIDTH, "head_dim": 16, "intermediate_size": 2 * WIDTH}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**WIDER, "attention_bias": True, "mlp_bias": True},
    "gemma2": WIDER,  # norms between the maps and the stream
    "gpt2": {"n_embd": WIDTH},  # matrices the other way round
    "mixtral": WIDER,  # experts as one parameter, which stay in full precision
}


def save_wide(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A checkpoint whose sizes are multiples of 64."""
    return save_tiny_model(folder, family, **{**SHAPES[family], **changes})


def directions() -> AblationDirections:
    """Two for each layer, with equal weights."""
    draw = torch.Generator().manual_seed(9)
    rows = torch.linalg.qr(torch.randn(LAYERS + 1, WIDTH, 2, generator=draw)).Q.mT
    return AblationDirections.of(rows, torch.ones(LAYERS + 1, 2))


def facts_of(model: Model) -> dict[str, Any]:
    """The part of `best.json` about the searched model."""
    return {
        **model_facts(model),
        "writers": [writer.to_dict() for writer in record_writers(model.anatomy)],
        "shapes": [list(writer.shape) for writer in model.anatomy.writers],
    }


def held_out_table(
    saved: Path, load_original: Callable[[], Model], load_edited: Callable[[], Model]
) -> dict[str, Any]:
    """The held-out table of a saved model on one prompt of each kind."""
    found = evaluate_edit(
        load_original=load_original,
        load_edited=load_edited,
        record=read_json(saved / "ablation.json"),
        directions=directions(),
        sets=HoldoutSets([Prompt("Hi")], [Prompt("What?")]),
        protocol=HoldoutProtocol(4, 4, 100, 0),
        cache_weights="auto",
    )
    return found.table


def edits_of(model: Model, count: int = 2) -> list[Edit]:
    """Directions of its own for each writer."""
    draw = torch.Generator().manual_seed(7)
    return [
        Edit(writer, torch.linalg.qr(torch.randn(WIDTH, count, generator=draw)).Q.T, (1.2, 0.6))
        for writer in model.anatomy.writers
    ]


def logits(model: Model) -> Tensor:
    """Of two rows of tokens."""
    tokens = torch.tensor([[5, 9, 2, 7, 30, 41], [8, 8, 60, 3, 2, 99]])
    with torch.inference_mode():
        found: Tensor = model.network(input_ids=tokens).logits
    return found


def projected_by_hand(model: Model, edits: list[Edit]) -> Tensor:
    """Logits of a model whose modules put out y - sum_k s_k d_k (d_k . y)."""
    handles = []
    for edit in edits:

        def project(_: Any, args: Any, output: Tensor, edit: Edit = edit) -> Tensor:
            units = edit.directions.double()
            along = output.double() @ units.T * torch.tensor(edit.strengths).double()
            return (output.double() - along @ units).to(output.dtype)

        handles.append(edit.writer.module.register_forward_hook(project))
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()

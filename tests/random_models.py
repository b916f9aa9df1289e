"""Tiny networks of which no norm or bias is one, zero or the like, and edits of them."""

import copy
from pathlib import Path
from typing import Any, get_args

import torch
from tiny_models import D_MODEL, EXPERTS, LAYERS, SIZES, VOCABULARY, tiny_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation, ablate_bias, ablate_matrix
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import find_stream_writers

ALL: tuple[NormPreservation, ...] = get_args(NormPreservation)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "gpt2": {"n_embd": D_MODEL, "n_layer": LAYERS, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},  # attention and MLP in parallel
    "cohere": {},  # likewise
    "gemma2": {},  # norms between the maps and the stream
    "granite": {"residual_multiplier": 0.22},
    "mixtral": {**EXPERTS, "num_local_experts": 4},
    "qwen3_moe": {**EXPERTS, "num_experts": 4},
    "gpt_oss": {**EXPERTS, "num_local_experts": 4},  # biases for each expert
}
PACKED = ("mixtral", "qwen3_moe", "gpt_oss")
DENSE = tuple(family for family in SHAPES if family not in PACKED)
STRENGTHS = {1: [1.2], 2: [1.0, 0.6]}


def random_model(family: str, dtype: torch.dtype = torch.float64) -> Model:
    """A tiny network of which no norm or bias is one, zero or the like."""
    special = {"bos_token_id": None, "pad_token_id": 0, "eos_token_id": 1}
    sizes = {} if family == "gpt2" else SIZES
    shape = {**sizes, **SHAPES[family], **special, "vocab_size": VOCABULARY}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = AutoConfig.for_model(family, **shape)
        network: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        if network._can_set_experts_implementation():
            network.set_experts_implementation("eager")  # the fast ones know no float64
        for parameter in network.parameters():
            noise = torch.randn_like(parameter)
            parameter.data = 0.2 * noise if parameter.dim() > 1 else parameter.data + 0.1 * noise
    network = network.to(dtype).eval().requires_grad_(False)
    chat = ChatFormat(tiny_tokenizer(), "")
    return Model(network, chat, find_stream_writers(network), Path(), BatchSize(8))


def edits_of(model: Model, count: int, *, every: int = 1) -> list[Edit]:
    """Directions of its own for each writer, or for some."""
    draw = torch.Generator().manual_seed(7)
    return [
        Edit(writer, torch.linalg.qr(rows).Q.T, tuple(STRENGTHS[count]))
        for number, writer in enumerate(model.anatomy.writers)
        for rows in [torch.randn(D_MODEL, count, generator=draw)]
        if number % every == 0
    ]


def with_edited_weights(model: Model, edits: list[Edit], kind: NormPreservation) -> Model:
    """A copy whose matrices are edited one by one, those of experts too."""
    other = copy.deepcopy(model)
    writers = {writer.name: writer for writer in other.anatomy.writers}
    for edit in edits:
        writer = writers[edit.writer.name]
        experts = writer.weight if writer.weight.ndim == 3 else writer.weight[None]
        for matrix in experts:
            ablate_matrix(matrix, edit.directions, edit.strengths, kind, out=matrix)
        if writer.bias is not None:
            for bias in writer.bias.view(-1, D_MODEL):
                bias.copy_(ablate_bias(bias, edit.directions, edit.strengths))
    return other


def logits(model: Model) -> Tensor:
    """Of two rows of tokens."""
    tokens = torch.tensor([[5, 9, 2, 7, 30, 41], [8, 8, 60, 3, 2, 99]])
    with torch.inference_mode():
        found: Tensor = model.network(input_ids=tokens).logits
    return found

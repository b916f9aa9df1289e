"""Checkpoints as transformers 4 saves them, in families that several readers know."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from reader_environments import Reader
from tiny_models import CHAT_TEMPLATE, D_MODEL, END, LAYERS, PAD, ROLES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from heretic.demo.world import training_text

N_PROMPTS = 20
COMMON: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 128,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 500000.0, "rope_scaling": LLAMA_3},
    "qwen2": {"rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen3": {"rope_theta": 1e6},
    "qwen3_moe": {"rope_theta": 1e6, "num_experts": 8, "norm_topk_prob": True, **EXPERTS},
    "mixtral": {"rope_theta": 1e6, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {"rope_theta": 500000.0},
    "gemma3_text": {
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention"] * LAYERS,
    },
    "gpt_oss": {
        "rope_theta": 150000.0,
        "rope_scaling": YARN,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "layer_types": ALTERNATING,
    },
    "glm4": {"rope_theta": 500000.0},
}
# Experts are not linear modules, which adapters require.
WITH_ADAPTERS = {"llama", "qwen2", "qwen3", "olmo2", "gemma3_text", "glm4"}
# llama.cpp answers differently from the unedited model of this size as well.
NOT_IN_GGUF = {"gpt_oss"}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer whose tokens are whole characters, as llama.cpp shows no others."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [PAD, END, *ROLES, "<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    bpe.train_from_iterator(training_text(1, 200), trainer)
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, additional_special_tokens=list(ROLES)
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def prompts() -> list[list[int]]:
    """Random tokens, in prompts longer than any original context of a RoPE scaling."""
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(8, 200, (N_PROMPTS,), generator=draw).tolist()
    return [torch.randint(6, 320, (n,), generator=draw).tolist() for n in lengths]


def save_as_version_4(folder: Path, family: str, reader: Reader) -> Path:
    """Have transformers 4 save a random model, with its own form of the configuration."""
    sizes = {"vocab_size": len(tokenizer()), **COMMON, **FAMILIES[family]}
    reader("create", folder, given=json.dumps({"model_type": family, **sizes}))
    tokenizer().save_pretrained(folder)
    return folder

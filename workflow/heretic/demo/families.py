"""Architecture and training of the demo model, for each supported family.

`llama` is the standard case. `qwen3` also normalizes queries and keys. `qwen3_moe` routes each
token to two of four MLPs of half the width, the experts, whose matrices are one parameter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from heretic.settings.types import DemoFamily


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of the demo model; the defaults performed best for Llama.

    `shape` contains the fields of the family's configuration besides the common ones.
    """

    vocabulary: int = 1280
    layers: int = 4
    d_model: int = 128
    d_mlp: int = 320
    heads: int = 4
    key_value_heads: int = 2
    helpful_share: float = 0.5
    frozen_layers: int = 1
    batch: int = 24
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warm_up: float = 0.04
    final_rate: float = 0.05
    init: float = 0.04
    shape: Mapping[str, Any] = field(default_factory=dict)


RECIPES: Mapping[DemoFamily, Recipe] = {
    "llama": Recipe(),
    "qwen3": Recipe(shape={"head_dim": 32}),
    "qwen3_moe": Recipe(
        shape={
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 160,
            "norm_topk_prob": True,
        },
    ),
}


def new_model(
    tokenizer: PreTrainedTokenizerFast, family: DemoFamily, recipe: Recipe
) -> PreTrainedModel:
    """Return a float32 network with random weights from torch's generator."""
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=recipe.init,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        **recipe.shape,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, trust_remote_code=False
    )
    return model

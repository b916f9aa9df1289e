"""Tiny configurations of any model type, based on common names of size fields."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

D_MODEL, LAYERS, HEADS, VOCABULARY = 32, 4, 4, 64

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim_model", "emb_dim"), D_MODEL),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_size", "embed_dim", "n_embed"), D_MODEL),
    **dict.fromkeys(("lru_width", "decoder_hidden_size"), D_MODEL),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_inner", "dim_ff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "block_ff_dim"), 48),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size", "feed_forward_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    "moe_shared_expert_intermediate_size": 16,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), HEADS),
    **dict.fromkeys(
        ("num_key_value_heads", "kv_n_heads", "num_kv_heads", "multi_query_group_num"), 2
    ),
    **dict.fromkeys(("num_global_key_value_heads", "swa_num_key_value_heads"), 2),
    "swa_num_attention_heads": HEADS,
    **dict.fromkeys(("head_dim", "kv_channels", "attention_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "qk_nope_head_dim", "swa_head_dim", "swa_v_head_dim"), 8),
    **dict.fromkeys(("index_head_dim", "d_kv", "linear_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    "qk_head_dim": 12,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts", "num_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_top_k", "top_k_experts", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "n_group", "topk_group"), 1),
    "first_k_dense_replace": 1,
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("sliding_window", "attention_window_size", "sliding_window_size"), 64),
    "hidden_size_per_layer_input": 8,
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_state_dim"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    "mamba_d_ssm": 64,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    **dict.fromkeys(("time_step_rank", "num_memory_blocks", "use_mem_rank", "adapter_rank"), 4),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("attn_layer_period", "expert_layer_period"), 2),
    **dict.fromkeys(("attn_layer_offset", "expert_layer_offset"), 1),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id"), 0),
    **dict.fromkeys(("eos_token_id",), 1),
    "initializer_range": 0.2,
}
"""Sizes by the names of fields; where a type has no such field it is not set."""

UNSET = ("head_dim", "num_key_value_heads")
"""Sizes that follow from others where they are not given, but not in all types."""

HYBRID = ["mamba", "hybrid", "mamba", "hybrid"]
LATENT = {"num_key_value_heads": HEADS}
INDEXED = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
# Sections of a head that rotate with time, height and width.
IN_SPACE = {"text_config": {"rope_parameters": {**ROTARY, "mrope_section": [2, 1, 1]}}}
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "paddleocr_vl"), IN_SPACE),
    **dict.fromkeys(("glm4v", "glm46v", "glm_ocr", "glmga"), IN_SPACE),
    "glm4v_moe": {"text_config": {"rope_parameters": {**ROTARY, "mrope_section": [1, 1, 0]}}},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROTARY, "sliding_attention": ROTARY}
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {"text_config": LATENT},
    "dots3_note_text": LATENT,
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"], "num_dense_layers": 1},
    "mamba2": {"head_dim": 16},
    "qwen4_exp": {"text_config": INDEXED},
    "qwen4_exp_text": INDEXED,
    "zamba": {"layers_block_type": HYBRID, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {
        "layers_block_type": HYBRID,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": HEADS,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""What single types need beside that."""


def tiny_configuration(model_type: str, **changes: Any) -> PreTrainedConfig:
    """Return a tiny configuration of a model type, close to its default shape; `changes` override.

    Raises:
        Exception: an error of the configuration's constructor for rejected sizes.
    """
    default = AutoConfig.for_model(model_type)
    return _shrunk(default, {**SPECIAL.get(model_type, {}), **changes})


def _shrunk(default: PreTrainedConfig, special: dict[str, Any]) -> PreTrainedConfig:
    fields = default.to_dict()
    mapped = {default.attribute_map.get(name, name): size for name, size in SIZES.items()}
    changed: dict[str, Any] = {
        name: size
        for name, size in {**SIZES, **mapped}.items()
        if isinstance(fields.get(name), int | float) and not isinstance(fields[name], bool)
    }
    changed |= {name: SIZES[name] for name in UNSET if fields.get(name, "") is None}
    if "qk_rope_head_dim" in changed:  # latent attention: a key for every head
        latent = {"head_dim": changed["qk_rope_head_dim"], "num_key_value_heads": HEADS}
        changed |= {name: size for name, size in latent.items() if name in fields}
    for name in default.sub_configs:
        inner = getattr(default, name, None)
        if isinstance(inner, PreTrainedConfig):
            changed[name] = _shrunk(inner, special.get(name, {})).to_dict()
    flat = {name: value for name, value in special.items() if name not in default.sub_configs}
    return type(default)(**{**changed, **flat})

"""Models for the benchmark of trials, made once and kept in a folder."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from heretic.artifacts import replacing_folder
from heretic.demo.train import train_demo_model
from heretic.settings import Settings

# Everything else of a model's shape; the demo's tokenizer decides the vocabulary.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "50m": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    # Qwen2.5-32B-Instruct.
    "32b": {
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}


def demo_model(cache: Path) -> Path:
    """The demo model, as a run trains it."""
    steps = Settings().demo_steps
    folder = cache / f"demo-{steps}"
    if not folder.exists():
        sys.stderr.write(f"Training the demo model of {steps} steps, once\n")
        train_demo_model(folder, seed=0, steps=steps, threads=torch.get_num_threads())
    return folder


def random_model(
    cache: Path, name: str, demo: Path, dtype: torch.dtype, device: torch.device
) -> Path:
    """A model of random weights with the demo's tokenizer: it neither refuses nor ends."""
    tokenizer: Any = AutoTokenizer.from_pretrained(demo)
    config = _config(name, tokenizer)
    folder = cache / f"random-{name}-{config.vocab_size}-{str(dtype).removeprefix('torch.')}"
    if not folder.exists():
        torch.manual_seed(0)
        with device:
            made: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        with replacing_folder(folder) as beside:
            made.save_pretrained(beside)
    tokenizer.save_pretrained(folder)
    return folder


def _config(name: str, tokenizer: Any) -> PreTrainedConfig:
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, **SHAPES[name]}
    # Each map keeps the size of what it maps, so that the layers decide the answers.
    shape["initializer_range"] = shape["hidden_size"] ** -0.5
    kind = Qwen2Config if name == "32b" else LlamaConfig
    return kind(
        **shape,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

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
from heretic.settings.schema import Settings

# Everything else of a model's shape; the demo's tokenizer decides the vocabulary.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "50m-random": {
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


WIDE, LAYERS_FOR_ONE = 512, 3


def demo_model(cache: Path) -> Path:
    """The demo model, as a run trains it."""
    steps = Settings().demo_steps
    folder = cache / f"demo-{steps}"
    if not folder.exists():
        sys.stderr.write(f"Training the demo model of {steps} steps, once\n")
        train_demo_model(folder, seed=0, steps=steps, threads=torch.get_num_threads())
    return folder


def widened_demo(cache: Path, demo: Path) -> Path:
    """A model of 50 million parameters that answers as the demo model does.

    The demo's layers, each with two others before it, lie in the first channels, heads and neurons
    of wider ones; all other weights are zero. The work of a pass is that of any such model.
    """
    small: Any = AutoModelForCausalLM.from_pretrained(demo)
    old = small.config
    heads = WIDE // old.head_dim
    config = LlamaConfig(
        **{
            **old.to_dict(),
            "hidden_size": WIDE,
            "intermediate_size": 4 * WIDE,
            "num_hidden_layers": LAYERS_FOR_ONE * old.num_hidden_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads * old.num_key_value_heads // old.num_attention_heads,
            # The mean square is that of fewer channels.
            "rms_norm_eps": old.rms_norm_eps * old.hidden_size / WIDE,
        }
    )
    wide: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    _copy_into_corner(small, wide)
    folder = cache / "50m-demo"
    with replacing_folder(folder) as beside:
        wide.save_pretrained(beside)
        AutoTokenizer.from_pretrained(demo).save_pretrained(beside)
    return folder


def _copy_into_corner(small: Any, wide: Any) -> None:
    given = dict(small.named_parameters())
    shrunken = (small.config.hidden_size / wide.config.hidden_size) ** 0.5
    with torch.no_grad():
        for name, place in wide.named_parameters():
            parts = name.split(".")
            if "layers" in parts:
                at = parts.index("layers") + 1
                layer, rest = divmod(int(parts[at]), LAYERS_FOR_ONE)
                parts[at] = str(layer) if rest == LAYERS_FOR_ONE - 1 else "none"
            source = given.get(".".join(parts))
            place.zero_()
            if source is None and place.dim() == 1:
                place.fill_(1.0)  # norms of layers that do nothing
            elif source is not None:
                corner = place[tuple(slice(size) for size in source.shape)]
                corner.copy_(source * (shrunken if source.dim() == 1 else 1.0))


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

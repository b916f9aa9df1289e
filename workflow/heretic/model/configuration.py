"""Validation of the sizes in `config.json` before anything is allocated.

A configuration may declare a million layers; transformers would build them before it reads the
weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError
from heretic.model.headers import Headers, is_plain_name
from heretic.model.json_files import AGAIN, read_object
from heretic.model.quantization import KEYS

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Each is a dimension of some tensor, so none exceeds the largest tensor dimension.
WIDTHS = ("hidden_size", "n_embd", "d_model", "vocab_size", "intermediate_size", "ffn_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads")
# May be -1 in families without such a limit.
OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "max_position_embeddings", "n_positions")
POSITIVE = (*LAYERS, *HEADS, "hidden_size", "n_embd", "d_model", "vocab_size")
# transformers builds a name for each label.
MOST_LABELS = 100_000
# 4-bit numbers are packed into 32 bits.
PACKED = 16


def read_configuration(model: str, path: Path) -> dict[str, Any]:
    """Return the contents of a `config.json` after validating that its sizes are numbers.

    Raises:
        ModelLoadError: the file is damaged, or a size is not a positive integer.
    """
    config = read_object(path)
    for part in parts_of(config):
        for name in (*POSITIVE, *WIDTHS, *OPTIONAL_SIZES):
            value = part.get(name)
            if value is None and (name not in part or name not in POSITIVE):
                continue
            sizes = value if isinstance(value, list) and name not in LAYERS else [value]
            least = 1 if name in POSITIVE else -1 if name in OPTIONAL_SIZES else 0
            if not all(type(size) is int and size >= least for size in sizes):
                raise ModelLoadError(
                    f"config.json of {model} has {name}={_shown(value)}, which is not a size; "
                    f"{AGAIN}"
                )
        labels = part.get("num_labels")
        if isinstance(labels, int) and labels > MOST_LABELS:
            raise ModelLoadError(
                f"config.json of {model} has num_labels={labels}, more than {MOST_LABELS}; {AGAIN}"
            )
    named = config.get("transformers_weights")
    if named is not None and not is_plain_name(named):
        raise ModelLoadError(
            f"config.json of {model} takes weights from {_shown(named)}; only a safetensors file "
            f"in the same folder is allowed; {AGAIN}"
        )
    return config


def check_sizes(model: str, config: Mapping[str, Any], headers: Headers) -> None:
    """Reject a configuration whose sizes contradict the weights.

    Only sizes present in every checkpoint are compared here; the rest requires the network's
    parameters.

    Raises:
        ModelLoadError: the configuration declares more or wider layers than the tensors have.
    """
    quantized = any(config.get(key) for key in KEYS)
    widest = headers.largest_dimension * (PACKED if quantized else 1)
    for part in _language_parts(config):
        for name in (*LAYERS, *WIDTHS):
            value = part.get(name)
            most = headers.layers if name in LAYERS else widest
            sizes = value if isinstance(value, list) else [value]
            for size in sizes:
                if isinstance(size, int) and size > most:
                    unit = "layers" if name in LAYERS else "rows or columns"
                    raise ModelLoadError(
                        f"config.json of {model} has {name}={size}, but the weights have at most "
                        f"{most} {unit}; {AGAIN}"
                    )


def parts_of(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration and its parts, such as `text_config`."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield value


def _language_parts(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    text = config.get("text_config")
    return [config, text] if isinstance(text, dict) else [config]


def _shown(value: object) -> str:
    return f"{value!r:.60}"

"""Kind of network described by a configuration, determined before torch is imported.

Importing the tables of transformers would import torch, which takes seconds. They are parsed from
its source file instead; if they are not found there, the check is left to transformers.
"""

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError

TABLES = Path("models", "auto", "modeling_auto.py")
CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
MULTIMODAL = "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"
IMAGE_TEXT = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"
MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
ENCODER_DECODER = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"
ALL = "MODEL_MAPPING_NAMES"
# Heads that return labels, scores or spans instead of text.
OTHER_HEADS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    *("ForMultipleChoice", "ForMaskedLM", "ForNextSentencePrediction", "ForImageClassification"),
    *("ForAudioClassification", "ForCTC", "ForRewardModeling", "RewardModel"),
)
INSTEAD = "choose a decoder-only instruct model, such as Llama, Qwen, Gemma or Mistral"


def check_architecture(
    model: str, config: Mapping[str, Any], *, trust_remote_code: bool = False
) -> None:
    """Reject a network that does not generate text or is unknown to transformers.

    Args:
        model: name for messages.
        config: contents of its `config.json`.
        trust_remote_code: as the setting; the repository's own code may support any type.

    Raises:
        ModelLoadError: the message states the kind of network and an alternative.
    """
    kind, own = config.get("model_type"), config.get("auto_map")
    if own and trust_remote_code:
        return
    if not isinstance(kind, str) or not kind:
        raise ModelLoadError(
            f"config.json of {model} has no model_type; point to a folder saved by transformers"
        )
    if config.get("is_encoder_decoder") is True:
        raise ModelLoadError(f"{model} is an encoder-decoder ({_shown(kind)}); {INSTEAD}")
    heads = config.get("architectures")
    names = [head for head in heads if isinstance(head, str)] if isinstance(heads, list) else []
    if names and all(name.endswith(OTHER_HEADS) for name in names):
        raise ModelLoadError(
            f"{model} is a {_shown(names[0])}, which does not generate text; {INSTEAD}"
        )
    _check_type(model, kind, bool(own), decoder=config.get("is_decoder") is True)


def _check_type(model: str, kind: str, own_code: bool, *, decoder: bool) -> None:
    tables = known_types()
    answering = tables.get(CAUSAL, {}).keys() | tables.get(MULTIMODAL, {}).keys()
    answering |= tables.get(IMAGE_TEXT, {}).keys()
    if not answering:
        return
    if kind in tables.get(MASKED, {}) and not decoder:
        raise ModelLoadError(
            f"{model} is an encoder ({_shown(kind)}) and does not generate text; {INSTEAD}"
        )
    if kind in answering:
        return
    if kind in tables.get(ENCODER_DECODER, {}):
        raise ModelLoadError(f"{model} is an encoder-decoder ({_shown(kind)}); {INSTEAD}")
    if kind in tables.get(ALL, {}):
        raise ModelLoadError(
            f"{model} is a {_shown(kind)}, which does not generate text; {INSTEAD}"
        )
    if own_code:
        raise ModelLoadError(
            f"{model} has a custom architecture ({_shown(kind)}) with code in its repository; read "
            "that code, and set trust_remote_code=true if you trust it"
        )
    raise ModelLoadError(
        f"the installed transformers does not know the model_type {_shown(kind)} of {model}; "
        "update transformers, or choose another model"
    )


@cache
def known_types() -> dict[str, dict[str, object]]:
    """Return the tables of the installed transformers: class by model type, by table.

    Returns:
        An empty mapping if the source of transformers has a different layout.
    """
    package = find_spec("transformers")
    places = package.submodule_search_locations if package is not None else None
    path = Path(next(iter(places))) / TABLES if places else None
    if path is None or not path.is_file():
        return {}
    found: dict[str, dict[str, object]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            table, call = node.targets[0], node.value
            if isinstance(table, ast.Name) and table.id.endswith("_NAMES") and call.args:
                found[table.id] = _pairs(call.args[0])
    return found


def _pairs(node: ast.expr) -> dict[str, object]:
    """Return pairs of constants, without those of another table included at the start."""
    pairs = node.elts if isinstance(node, ast.List) else []
    constants = [pair for pair in pairs if isinstance(pair, ast.Tuple)]
    return dict(ast.literal_eval(pair) for pair in constants)


def _shown(text: str) -> str:
    return ascii(text)[1:-1][:60]

"""Transformers class that loads a complete checkpoint, including image and audio parts.

A language model that is the text decoder of a multimodal network is edited in place: its vision
tower and other parts are loaded and saved with it. `AutoModelForCausalLM` has no class for most of
these networks, and for some only the decoder's class, which would drop the other parts.
"""

from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from heretic.errors import ModelLoadError

TEXT_ONLY = AutoModelForCausalLM
CLASSES = (AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForImageTextToText)


def class_of_checkpoint(folder: Path, *, trust_remote_code: bool) -> tuple[Any, PreTrainedConfig]:
    """Return the `AutoModelFor...` of the complete network in `folder`, and its config.

    Raises:
        Exception: any transformers error caused by an unreadable configuration.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        folder, trust_remote_code=trust_remote_code
    )
    return class_of(config, trust_remote_code=trust_remote_code), config


def class_of(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> Any:
    """Return the `AutoModelFor...` of the complete network described by a configuration.

    As in transformers, the repository's own code takes precedence if it may run. A checkpoint that
    names the decoder's class contains only the decoder. Unknown architectures are passed to
    `AutoModelForCausalLM`, which rejects them.
    """
    own = getattr(config, "auto_map", None) or {}
    if trust_remote_code:
        for candidate in CLASSES:
            if candidate.__name__ in own:
                return candidate
    whole = _named(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, config)
    decoder = _named(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, config)
    if whole is None or whole == decoder or decoder in (config.architectures or ()):
        return TEXT_ONLY
    return AutoModelForMultimodalLM


def network_class(kind: Any, config: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
    """Return the class of transformers' own code that an `AutoModelFor...` loads, and its config.

    Raises:
        ModelLoadError: transformers has no such class.
    """
    decoder_only = kind is TEXT_ONLY
    names: Any = (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if decoder_only else MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    )
    found = names.get(config.model_type)
    if not isinstance(found, str):
        raise ModelLoadError(
            f"transformers has no single class for the architecture {config.model_type}, which "
            "dequantizing requires; use the full-precision original"
        )
    network = getattr(transformers, found)
    # The decoder of a multimodal configuration.
    text = config.sub_configs.get("text_config")
    if text is not None and network.config_class is text:
        return network, config.get_text_config()
    return network, config


def loader_name(architecture: str) -> str:
    """Return the `AutoModelFor...` with which users load a network of this class."""
    whole, decoders = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    only_whole = architecture in whole.values() and architecture not in decoders.values()
    return (AutoModelForMultimodalLM if only_whole else TEXT_ONLY).__name__


def _named(names: Any, config: PreTrainedConfig) -> str | None:
    found = names.get(config.model_type)
    return found if isinstance(found, str) else None

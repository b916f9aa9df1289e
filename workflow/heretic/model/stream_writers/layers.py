"""A network's decoder layers, identified by their number and by running them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from heretic.errors import ModelLoadError
from heretic.model.devices import execution_device

FEW_TOKENS = 4


def find_layers(network: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers in order; for a multimodal network, the language model's.

    Raises:
        ModelLoadError: there is no list of `num_hidden_layers` modules that run on text, or more
            than one.
    """
    expected = _size(network, "num_hidden_layers")
    decoder: nn.Module = network.get_decoder()  # type: ignore[no-untyped-call]
    # A module named decoder may be the head that decodes states into tokens.
    lists = _lists(decoder, expected) or _lists(network, expected)
    if len(lists) > 1:
        lists = _that_run(network, lists)
    if len(lists) != 1:
        raise ModelLoadError(
            f"{type(network).__name__} has {len(lists)} lists of {expected} layers where one "
            "decoder is expected; this architecture is not supported"
        )
    return list(*lists.values())


def _lists(module: nn.Module, length: int) -> dict[str, nn.ModuleList]:
    """Return the lists of `length` modules that are not inside another such list."""
    found: dict[str, nn.ModuleList] = {}
    for name, inner in module.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(inner, nn.ModuleList) and len(inner) == length and not inside:
            found[name] = inner
    return found


def stream_width(network: PreTrainedModel) -> int:
    """Return the residual stream's width d_model, from the text model's configuration.

    Raises:
        ModelLoadError: the configuration does not define it.
    """
    return _size(network, "hidden_size")


def text_config(network: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of the language model."""
    config: PreTrainedConfig = network.config.get_text_config(decoder=True)
    return config


def few_tokens(network: PreTrainedModel, count: int) -> dict[str, Any]:
    """Return the arguments of a pass over `count` text tokens."""
    embeddings: Any = network.get_input_embeddings()
    device = execution_device(embeddings)
    tokens = torch.arange(count, device=device)[None] % len(embeddings.weight)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}


def _size(network: PreTrainedModel, name: str) -> int:
    value = getattr(text_config(network), name, None)
    if not isinstance(value, int):
        raise ModelLoadError(
            f"the configuration of {type(network).__name__} has no {name}; this architecture is "
            "not supported"
        )
    return value


def _that_run(
    network: PreTrainedModel, lists: Mapping[str, nn.ModuleList]
) -> dict[str, nn.ModuleList]:
    """Return lists whose modules all run on text, which excludes image layers and submodules."""
    ran: set[int] = set()
    handles = [
        module.register_forward_hook(lambda module, *_: ran.add(id(module)))
        for modules in lists.values()
        for module in modules
    ]
    try:
        with torch.inference_mode():
            network(**few_tokens(network, FEW_TOKENS))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
        return dict(lists)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: modules
        for name, modules in lists.items()
        if all(id(module) in ran for module in modules)
    }

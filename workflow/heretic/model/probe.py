"""Runs a few tokens through a network with chosen layer inputs and chosen module outputs.

Every decoder layer gets the same stream as its input, whatever the layer before it wrote, so one
pass examines all layers on their own, and rounding does not grow with depth.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from heretic.errors import ModelLoadError

TOKENS = 6
Key: TypeAlias = tuple[int, str]
"""A layer's index and the dotted path of a module inside it."""


@dataclass
class Observation:
    """What one pass showed.

    Attributes:
        updates: by layer, what it added to its stream [tokens, d_model], float32 on the CPU.
        inputs: by module that was run with its output replaced, its input [tokens, d_in].
    """

    updates: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[Key, Tensor] = field(default_factory=dict)


class Probe:
    """The modules of a network's layers, and passes with some of their outputs replaced.

    Attributes:
        modules: modules with parameters of their own, in order of layer, then of appearance.
        paths: their dotted paths in the network.
    """

    def __init__(self, network: PreTrainedModel, layers: list[nn.Module]) -> None:
        self.network, self.layers = network, layers
        self.modules: dict[Key, nn.Module] = {
            (index, name): module
            for index, layer in enumerate(layers)
            for name, module in layer.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }
        known = {id(module): path for path, module in network.named_modules()}
        self.paths = {key: known[id(module)] for key, module in self.modules.items()}

    def run(self, stream: Tensor, outputs: Mapping[Key, Tensor]) -> Observation:
        """Feed `stream` [tokens, d_model] to every layer, with `outputs` in place of modules' own.

        Raises:
            ModelLoadError: the network cannot be run so.
        """
        seen = Observation()
        embeddings: Any = self.network.get_input_embeddings()
        vocabulary = len(embeddings.weight)
        tokens = torch.arange(len(stream), device=self.network.device)[None] % vocabulary
        with self._hooked(stream, outputs, seen), torch.inference_mode():
            try:
                self.network(
                    input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
                )
            except (RuntimeError, ValueError, TypeError, LookupError) as error:
                reason = " ".join(str(error).split())
                raise ModelLoadError(
                    f"{type(self.network).__name__} does not run on a few tokens ({reason}); "
                    "this architecture is not supported"
                ) from error
        return seen

    @contextmanager
    def _hooked(
        self, stream: Tensor, outputs: Mapping[Key, Tensor], seen: Observation
    ) -> Iterator[None]:
        handles: list[RemovableHandle] = []
        try:
            for index, layer in enumerate(self.layers):
                handles += _watch_layer(layer, index, stream, seen)
            for key, value in outputs.items():
                handles.append(_replace_output(self.modules[key], key, value, seen))
            yield
        finally:
            for handle in handles:
                handle.remove()


def first_tensor(output: Any) -> Tensor:
    """The hidden state in a layer's output, which is a tensor or a tuple that starts with it."""
    return output if isinstance(output, Tensor) else output[0]


def stream_of(args: Any, kwargs: Any) -> Tensor:
    """The hidden state in a layer's arguments."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _watch_layer(
    layer: nn.Module, index: int, stream: Tensor, seen: Observation
) -> list[RemovableHandle]:
    def feed(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        hidden = stream_of(args, kwargs)
        fed = stream.to(hidden).expand_as(hidden).clone()
        return ((fed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": fed})

    def record(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        after = first_tensor(output)
        before = stream.to(stream_of(args, kwargs))
        seen.updates[index] = (after.float() - before.float()).flatten(0, -2).cpu()

    return [
        layer.register_forward_pre_hook(feed, with_kwargs=True),
        layer.register_forward_hook(record, with_kwargs=True),
    ]


def _replace_output(
    module: nn.Module, key: Key, value: Tensor, seen: Observation
) -> RemovableHandle:
    def overwrite(_: nn.Module, args: Any, output: Any) -> Any:
        if args:
            seen.inputs[key] = args[0].flatten(0, -2).float().cpu()
        if not isinstance(output, Tensor) or output.shape[-1] != value.shape[-1]:
            return output
        fits = output.shape[-2] == len(value)
        return (value if fits else value[:1]).to(output).expand_as(output).clone()

    return module.register_forward_hook(overwrite)

"""What writes into the residual stream, found by probing and proved, not listed by name.

A candidate is any linear map inside a decoder layer whose output has the stream's width. With
every candidate's output replaced by zero a layer must be the identity on the stream, otherwise
something else writes too. Replacing one candidate's output by a known vector then shows whether
that vector arrives in the stream (a writer) or not (a query, key or value projection).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heretic.errors import ModelLoadError
from heretic.model.components import ATTENTION, COMPONENTS, MLP

PROBE_TOKENS = 6
# bfloat16 keeps 8 bits: adding a probe of the stream's size and subtracting the stream again
# leaves errors of a few per cent of the probe.
ALIGNMENT = 0.98
SILENCE = 0.02


@dataclass(frozen=True)
class StreamWriter:
    """A linear map whose output is added to the residual stream.

    Attributes:
        layer: index of its decoder layer, from 0.
        component: `attn.o_proj` if it mixes positions, `mlp.down_proj` otherwise.
        name: dotted path of the module in the network.
        module: the map itself.
    """

    layer: int
    component: str
    name: str
    module: nn.Linear | Conv1D

    @property
    def transposed(self) -> bool:
        """Whether the module keeps its matrix as [d_in, d_model]."""
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """The matrix [d_model, d_in] as a view; writing into it edits the model."""
        weight = self.module.weight.data
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> Tensor | None:
        """The bias [d_model], or None."""
        bias = self.module.bias
        return None if bias is None else bias.data


@dataclass(frozen=True)
class Anatomy:
    """The decoder layers and their writers, in order of layer, then of appearance."""

    layers: tuple[nn.Module, ...]
    writers: tuple[StreamWriter, ...]
    d_model: int

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    def of_layer(self, layer: int) -> dict[str, list[StreamWriter]]:
        """Writers of one layer by component."""
        found: dict[str, list[StreamWriter]] = {component: [] for component in COMPONENTS}
        for writer in self.writers:
            if writer.layer == layer:
                found[writer.component].append(writer)
        return found


def dissect(network: PreTrainedModel) -> Anatomy:
    """Find the decoder layers and every writer, and prove that nothing else writes.

    Raises:
        ModelLoadError: no decoder layers, a layer that is not explained by its linear maps, a
            map whose output is changed on its way to the stream, or a layer that lacks a
            component.
    """
    layers = find_layers(network)
    d_model = int(network.config.get_text_config().hidden_size)
    probe = _Probe(network, layers, d_model)
    probe.require_explained()
    writers = probe.find_writers()
    for layer, by_component in _grouped(writers, len(layers)).items():
        for component in COMPONENTS:
            if component not in by_component:
                raise ModelLoadError(
                    f"layer {layer} of {type(network).__name__} has no {component} that writes "
                    "into the residual stream; this architecture is not supported"
                )
    return Anatomy(tuple(layers), tuple(writers), d_model)


def find_layers(network: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers in order.

    Raises:
        ModelLoadError: there is no list of `num_hidden_layers` modules, or more than one.
    """
    expected = int(network.config.get_text_config().num_hidden_layers)
    decoder = network.get_decoder()
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == expected]
    if len(lists) != 1:
        raise ModelLoadError(
            f"{type(network).__name__} has {len(lists)} lists of {expected} layers where one "
            "decoder is expected; this architecture is not supported"
        )
    return list(lists[0])


def first_tensor(output: Any) -> Tensor:
    """The hidden state in a layer's output, which is a tensor or a tuple that starts with it."""
    return output if isinstance(output, Tensor) else output[0]


def _grouped(writers: list[StreamWriter], n_layers: int) -> dict[int, set[str]]:
    by_layer: dict[int, set[str]] = {layer: set() for layer in range(n_layers)}
    for writer in writers:
        by_layer[writer.layer].add(writer.component)
    return by_layer


Replacement: TypeAlias = Callable[[int, str], Tensor | None]


class _Probe:
    """Runs a few tokens through the network with the outputs of candidates replaced."""

    def __init__(self, network: PreTrainedModel, layers: list[nn.Module], d_model: int) -> None:
        self.network, self.layers, self.d_model = network, layers, d_model
        paths = {id(module): name for name, module in network.named_modules()}
        self.candidates = {
            (index, name): (f"{paths[id(layer)]}.{name}", module)
            for index, layer in enumerate(layers)
            for name, module in layer.named_modules()
            if _output_width(module) == d_model
        }
        generator = torch.Generator().manual_seed(0)
        self.direction = torch.randn(d_model, generator=generator)
        self.silent = torch.zeros(d_model)

    def require_explained(self) -> None:
        """With every candidate silent, each layer must be the identity on the stream."""
        for index, (before, after) in enumerate(self._streams(lambda layer, name: self.silent)):
            if (after - before).norm() > SILENCE * before.norm():
                others = [
                    name
                    for name, module in self.layers[index].named_modules()
                    if (index, name) not in self.candidates
                    and next(module.parameters(recurse=False), None) is not None
                ]
                raise ModelLoadError(
                    f"layer {index} of {type(self.network).__name__} still writes into the "
                    f"residual stream with its linear maps silenced; one of {', '.join(others)} "
                    "writes too, so an edit would be partial; this architecture is not supported"
                )

    def find_writers(self) -> list[StreamWriter]:
        """The candidates whose output arrives in the stream, with their components."""
        writing = [
            (layer, name)
            for tried in dict.fromkeys(name for _, name in self.candidates)
            for layer, name in self._arriving(tried)
        ]
        mixing = self._mixing(set(writing))
        order = {key: position for position, key in enumerate(self.candidates)}
        return [
            StreamWriter(key[0], ATTENTION if key in mixing else MLP, *self.candidates[key])
            for key in sorted(writing, key=order.__getitem__)
        ]

    def _arriving(self, tried: str) -> list[tuple[int, str]]:
        def replace(layer: int, name: str) -> Tensor:
            return self.direction if name == tried else self.silent

        found = []
        for layer, (before, after) in enumerate(self._streams(replace)):
            if (layer, tried) not in self.candidates:
                continue
            moved = (after - before).flatten(0, -2)  # [tokens, d_model]
            if moved.norm() <= SILENCE * self.direction.norm():
                continue
            alignment = torch.cosine_similarity(moved, self.direction.expand_as(moved), dim=-1)
            if alignment.min() < ALIGNMENT:
                raise ModelLoadError(
                    f"{self.candidates[layer, tried][0]} writes into the residual stream through "
                    "a norm or another non-linear step, where a projection of its weights would "
                    "not remove the direction; this architecture is not supported"
                )
            found.append((layer, tried))
        return found

    def _mixing(self, writing: set[tuple[int, str]]) -> set[tuple[int, str]]:
        """Writers whose input at the last position depends on the first token."""

        def replace(layer: int, name: str) -> Tensor | None:
            return self.silent if (layer, name) in writing else None

        first, second = (self._last_inputs(replace, writing, token) for token in (1, 2))
        return {
            key for key in writing if (first[key] - second[key]).norm() > 1e-6 * first[key].norm()
        }

    def _streams(self, replace: Replacement) -> list[tuple[Tensor, Tensor]]:
        """Each layer's input and output [1, tokens, d_model], float32 on the CPU."""
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        with self._replaced(replace) as handles:
            for index, layer in enumerate(self.layers):

                def record(
                    _: nn.Module, args: Any, kwargs: Any, output: Any, index: int = index
                ) -> None:
                    before = args[0] if args else kwargs["hidden_states"]
                    seen[index] = (before.float().cpu(), first_tensor(output).float().cpu())

                handles.append(layer.register_forward_hook(record, with_kwargs=True))
            self._run(first_token=1)
        return [seen[index] for index in range(len(self.layers))]

    def _last_inputs(
        self, replace: Replacement, writing: set[tuple[int, str]], first_token: int
    ) -> dict[tuple[int, str], Tensor]:
        seen: dict[tuple[int, str], Tensor] = {}
        with self._replaced(replace) as handles:
            for key in writing:

                def record(_: nn.Module, args: Any, key: tuple[int, str] = key) -> None:
                    seen[key] = args[0].flatten(0, -2)[-1].float().cpu()

                handles.append(self.candidates[key][1].register_forward_pre_hook(record))
            self._run(first_token)
        return seen

    @contextmanager
    def _replaced(self, replace: Replacement) -> Iterator[list[RemovableHandle]]:
        handles: list[RemovableHandle] = []
        for (layer, name), (_, module) in self.candidates.items():
            value = replace(layer, name)
            if value is not None:

                def overwrite(
                    _: nn.Module, args: Any, output: Tensor, value: Tensor = value
                ) -> Tensor:
                    return value.to(output).expand_as(output)

                handles.append(module.register_forward_hook(overwrite))
        try:
            yield handles
        finally:
            for handle in handles:
                handle.remove()

    def _run(self, first_token: int) -> None:
        tokens = torch.arange(3, 3 + PROBE_TOKENS, device=self.network.device)[None]
        tokens[0, 0] = first_token
        with torch.inference_mode():
            self.network(input_ids=tokens, use_cache=False)


def _output_width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return int(module.nf) if isinstance(module, Conv1D) else None

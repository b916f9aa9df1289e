"""What writes into the residual stream, found by probing and proved, not listed by name.

A candidate is any linear map inside a decoder layer whose output has the stream's width. With
every candidate's output replaced by zero a layer must be the identity on the stream, bit for bit,
otherwise something else writes too. Replacing one candidate's output by known vectors then shows
whether they arrive in the stream, all by the same factor (a writer), or not at all (a query, key or
value projection).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heretic.errors import ModelLoadError
from heretic.model.components import ATTENTION, COMPONENTS, MLP
from heretic.model.probe import TOKENS, Key, Probe

# The stream is small beside what is written into it, so that half precision rounds little of that
# away: a few parts in a thousand of a probe of size 1 at a residual multiplier of 0.1.
STREAM_SIZE = 1 / 16
NONLINEAR = 0.02


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
    writers = _Dissection(Probe(network, layers), d_model).find_writers()
    found = {(writer.layer, writer.component) for writer in writers}
    for layer in range(len(layers)):
        for component in COMPONENTS:
            if (layer, component) not in found:
                names = [writer.name for writer in writers if writer.layer == layer]
                raise ModelLoadError(
                    f"layer {layer} of {type(network).__name__} has no {component} that writes "
                    f"into the residual stream, only {', '.join(names) or 'nothing'}; this "
                    "architecture is not supported"
                )
    return Anatomy(tuple(layers), tuple(writers), d_model)


def find_layers(network: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers in order.

    Raises:
        ModelLoadError: there is no list of `num_hidden_layers` modules, or more than one.
    """
    expected = int(network.config.get_text_config().num_hidden_layers)
    lists: dict[str, nn.ModuleList] = {}
    decoder: nn.Module = network.get_decoder()  # type: ignore[no-untyped-call]
    for name, module in decoder.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and len(module) == expected and not inside:
            lists[name] = module
    if len(lists) != 1:
        raise ModelLoadError(
            f"{type(network).__name__} has {len(lists)} lists of {expected} layers where one "
            "decoder is expected; this architecture is not supported"
        )
    return list(*lists.values())


class _Dissection:
    """The questions asked of a network, one or a few passes each."""

    def __init__(self, probe: Probe, d_model: int) -> None:
        self.probe = probe
        self.architecture = type(probe.network).__name__
        self.candidates = [k for k, module in probe.modules.items() if _width(module) == d_model]
        generator = torch.Generator().manual_seed(0)
        self.streams = STREAM_SIZE * torch.randn(2, TOKENS, d_model, generator=generator)
        # Both streams end alike: only what looks back can tell them apart there.
        self.streams[1, -1] = self.streams[0, -1]
        # The same state everywhere, so that what depends on the state is the same everywhere.
        self.even = self.streams[0, :1].expand(TOKENS, -1)
        # Two sizes of one direction, which a norm would make equal.
        sizes = 1 + torch.arange(TOKENS) % 2
        self.value = sizes[:, None] * torch.randn(d_model, generator=generator)
        self.silent = dict.fromkeys(self.candidates, torch.zeros_like(self.value))

    def find_writers(self) -> list[StreamWriter]:
        """The candidates whose output arrives in the stream, with their components."""
        self._require_explained()
        writing: list[Key] = []
        for name in dict.fromkeys(name for _, name in self.candidates):
            writing += self._arriving([key for key in self.candidates if key[1] == name])
        mixing = self._mixing(writing)
        return [
            StreamWriter(
                layer=key[0],
                component=ATTENTION if key in mixing else MLP,
                name=self.probe.paths[key],
                module=self.probe.modules[key],  # type: ignore[arg-type]  # a candidate
            )
            for key in self.candidates
            if key in set(writing)
        ]

    def _require_explained(self) -> None:
        """With every candidate silent, each layer must be the identity on the stream."""
        seen = self.probe.run(self.even, self.silent)
        for layer, update in sorted(seen.updates.items()):
            if update.any():
                raise ModelLoadError(
                    f"layer {layer} of {self.architecture} still writes into the residual stream "
                    f"with its linear maps silenced, through {self._other_writers(layer)}, so an "
                    "edit would be partial; this architecture is not supported"
                )
        unused = [self.probe.paths[key] for key in self.candidates if key not in seen.inputs]
        if unused:
            raise ModelLoadError(
                f"{self.architecture} does not use {unused[0]} on every token, so it cannot be "
                "told whether that writes into the residual stream; this architecture is not "
                "supported"
            )

    def _other_writers(self, layer: int) -> str:
        """Modules of a layer, beside its candidates, that write into the stream."""
        others = [key for key in self.probe.modules if key[0] == layer and key not in self.silent]
        writing = [key for key in others if self._factor(self._updates([key])[layer])]
        names = [self.probe.paths[key] for key in writing or others]
        return f"{'' if writing else 'one of '}{', '.join(names)}"

    def _arriving(self, tried: Sequence[Key]) -> list[Key]:
        updates = self._updates(tried)
        arriving = [key for key in tried if updates[key[0]].any()]
        for key in arriving:
            if not self._factor(updates[key[0]]):
                raise ModelLoadError(
                    f"{self.probe.paths[key]} writes into the residual stream through a norm or "
                    "another non-linear step, where a projection of its weights would not remove "
                    "the direction; this architecture is not supported"
                )
        return arriving

    def _updates(self, tried: Sequence[Key]) -> dict[int, Tensor]:
        outputs = {**self.silent, **dict.fromkeys(tried, self.value)}
        return self.probe.run(self.even, outputs).updates

    def _factor(self, update: Tensor) -> float:
        """By what factor the value arrived in the stream; 0 if anything else did."""
        factor = (update * self.value).sum() / self.value.square().sum()
        rest = (update - factor * self.value).norm()
        return float(factor) if rest <= NONLINEAR * update.norm() else 0.0

    def _mixing(self, writing: Sequence[Key]) -> set[Key]:
        """Writers whose input at the last position depends on the positions before it."""
        silent = {key: self.silent[key] for key in writing}
        first, second = (self.probe.run(stream, silent).inputs for stream in self.streams)
        return {
            key
            for key in writing
            if (first[key][-1] - second[key][-1]).norm() > 1e-6 * first[key][-1].norm()
        }


def _width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return int(module.nf) if isinstance(module, Conv1D) else None

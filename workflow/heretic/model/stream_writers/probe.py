"""Passes of a few tokens through a network with replaced layer inputs and module outputs.

Every decoder layer receives the same stream as its input, regardless of the previous layer's
output, so that one pass examines all layers separately, and rounding does not grow with depth.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from heretic.errors import ModelLoadError
from heretic.model.stream_writers.candidates import Candidate
from heretic.model.stream_writers.layers import few_tokens

TOKENS = 6
Place: TypeAlias = tuple[int, str]
"""A layer's index and the dotted path of a module inside it."""


@dataclass
class Observation:
    """Observations of one pass, in float32 (float64 if the network is) on the CPU.

    Attributes:
        before: input stream by layer [tokens, d_model].
        after: output stream by layer.
        used: replaced candidates whose module ran.
        inputs: inputs of watched modules, one row per token [tokens, d_in], if they have that form.
    """

    before: dict[int, Tensor] = field(default_factory=dict)
    after: dict[int, Tensor] = field(default_factory=dict)
    used: set[Candidate] = field(default_factory=set)
    inputs: dict[Place, Tensor] = field(default_factory=dict)


class Probe:
    """Passes through a network with parts of its layers temporarily replaced."""

    def __init__(self, network: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        self.network, self.layers = network, layers

    @property
    def architecture(self) -> str:
        """Name of the network's class."""
        return type(self.network).__name__

    def run(
        self,
        stream: Tensor,
        replaced: Mapping[Candidate, Tensor],
        *,
        watched: Iterable[Place] = (),
    ) -> Observation:
        """Run one pass.

        Args:
            stream: input of every layer [tokens, d_model].
            replaced: replacement outputs of candidates: maps write the rows [tokens, d_model] (the
                first row everywhere if they see only some of the tokens), matrices the first row
                for every unit of their input, biases the first row for every expert.
            watched: modules whose inputs are recorded.

        Raises:
            ModelLoadError: the network cannot be run in this way.
        """
        seen = Observation()
        with self._hooked(stream, replaced, seen, watched):
            self._pass(len(stream))
        missing = [index for index in range(len(self.layers)) if index not in seen.after]
        if missing:
            raise ModelLoadError(
                f"{self.architecture} does not run layer {missing[0]} on text alone; this "
                "architecture is not supported"
            )
        return seen

    def require_handed_on(self) -> None:
        """Require that every layer runs once and receives the previous layer's output unchanged.

        Raises:
            ModelLoadError: something between two layers writes into the stream, or the layers do
                not run one after the other.
        """
        left: list[tuple[int, Tensor]] = []

        def compare(index: int, given: Tensor) -> None:
            before = left[-1] if left else (-1, _rows(given))
            if before[0] != index - 1 or not before[1].equal(_rows(given)):
                raise ModelLoadError(
                    f"layer {index} of {self.architecture} does not receive the residual stream of "
                    f"layer {index - 1}, so something else writes to it; this architecture is not "
                    "supported"
                )

        handles: list[RemovableHandle] = []
        try:
            for index, layer in enumerate(self.layers):
                handles += _listen(layer, index, compare, left)
            self._pass(TOKENS)
        finally:
            for handle in handles:
                handle.remove()

    def _pass(self, tokens: int) -> None:
        with torch.inference_mode():
            try:
                self.network(**few_tokens(self.network, tokens))
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
                reason = " ".join(str(error).split())
                raise ModelLoadError(
                    f"{self.architecture} does not run on a few tokens ({reason}); this "
                    "architecture is not supported"
                ) from error

    @contextmanager
    def _hooked(
        self,
        stream: Tensor,
        replaced: Mapping[Candidate, Tensor],
        seen: Observation,
        watched: Iterable[Place],
    ) -> Iterator[None]:
        handles: list[RemovableHandle] = []
        swaps = [
            _Swap({c: value for c, value in replaced.items() if c.raw and c.layer == index})
            for index in range(len(self.layers))
        ]
        try:
            for index, layer in enumerate(self.layers):
                handles += _watch_layer(layer, index, stream, seen, swaps[index])
            for candidate, value in replaced.items():
                handles.append(_replace_output(candidate, value, seen))
            for index, name in watched:
                module = self.layers[index].get_submodule(name)
                handles.append(_watch_input(module, (index, name), len(stream), seen))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for swap in swaps:
                swap.restore()


class _Swap:
    """Replacement of parameters in a layer's modules while it runs; the originals are set aside.

    Layers are replaced one at a time, because replacements take as much memory as the originals.
    """

    def __init__(self, values: Mapping[Candidate, Tensor]) -> None:
        self.values = values
        self.originals: dict[Candidate, nn.Parameter] = {}

    def replace(self) -> None:
        for candidate, value in self.values.items():
            original = getattr(candidate.module, candidate.parameter)
            row = value[0].to(original)
            if candidate.stream_dim == -2:
                row = row[:, None]
            other = nn.Parameter(row.expand_as(original).contiguous(), requires_grad=False)
            self.originals[candidate] = original
            candidate.module._parameters[candidate.parameter] = other

    def restore(self) -> None:
        # Reversed: where one parameter is two candidates, the first set the original aside.
        for candidate, original in reversed(self.originals.items()):
            candidate.module._parameters[candidate.parameter] = original
        self.originals.clear()


def first_tensor(output: Any) -> Tensor:
    """Return the hidden state in a layer's output, a tensor or a tuple that starts with it."""
    return output if isinstance(output, Tensor) else output[0]


def stream_of(args: Any, kwargs: Any) -> Tensor:
    """Return the hidden state in a layer's arguments."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _watch_layer(
    layer: nn.Module, index: int, stream: Tensor, seen: Observation, swap: _Swap
) -> list[RemovableHandle]:
    def feed(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        hidden = stream_of(args, kwargs)
        if hidden.shape != (1, *stream.shape):
            raise ModelLoadError(
                f"layer {index} gets states of shape {tuple(hidden.shape)} instead of the "
                f"{(1, *stream.shape)} of a single residual stream; this architecture is not "
                "supported"
            )
        fed = stream.to(hidden)[None].clone()
        seen.before[index] = _rows(fed)
        swap.replace()
        return ((fed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": fed})

    def record(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        swap.restore()
        seen.after[index] = _rows(first_tensor(output))

    return [
        layer.register_forward_pre_hook(feed, with_kwargs=True),
        layer.register_forward_hook(record, with_kwargs=True),
    ]


def _listen(
    layer: nn.Module,
    index: int,
    compare: Callable[[int, Tensor], None],
    left: list[tuple[int, Tensor]],
) -> list[RemovableHandle]:
    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        compare(index, stream_of(args, kwargs))

    def after(_: nn.Module, args: Any, output: Any) -> None:
        left.append((index, _rows(first_tensor(output))))

    return [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.register_forward_hook(after),
    ]


def _replace_output(candidate: Candidate, value: Tensor, seen: Observation) -> RemovableHandle:
    def overwrite(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen.used.add(candidate)
        if candidate.raw:
            return output
        fits = output.shape[-2] == len(value)
        return (value if fits else value[:1]).to(output).expand_as(output).clone()

    return candidate.module.register_forward_hook(overwrite)


def _watch_input(
    module: nn.Module, place: Place, tokens: int, seen: Observation
) -> RemovableHandle:
    def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        first = next(given, None)
        if first is not None and first.dim() > 1 and first.shape[:-1].numel() == tokens:
            seen.inputs[place] = _rows(first)

    return module.register_forward_pre_hook(keep, with_kwargs=True)


def _rows(states: Tensor) -> Tensor:
    rows = states.detach().flatten(0, -2)
    return rows.to("cpu", torch.promote_types(rows.dtype, torch.float32), copy=True)

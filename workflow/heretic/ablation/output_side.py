"""Applies a trial's edits to what the stream's writers put out, and leaves their weights alone.

With y = W x + b, and W' as `projection` defines it, the edited writer puts out W' x + b'. In terms
of the plain edit P(y) = y - D^T diag(s) D y, for which b' = P(b), that is

    none:       P(y)
    column:     P(W (c * x) + b)
    row:        r * P(y) + (1 - r) * b'
    frobenius:  g P(y) + (1 - g) b'

so nothing is written over, nothing has to be kept and nothing has to be restored. `restored_norms`
says what the factors cost; without norms to restore a trial reads no weights at all. Embeddings are
given tokens instead of x, so that c of a token multiplies what is put out.

Experts whose matrices are one parameter give one output, the sum of theirs weighted by the router:
the plain edit of that sum is the sum of plain edits, biases included, but factors of a single
expert's norms can no longer be applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation, ablate_bias
from heretic.ablation.restored_norms import RestoredNorms
from heretic.ablation.summed_outputs import INSTEAD, require_summed_outputs
from heretic.errors import ModelLoadError
from heretic.model.anatomy import StreamWriter
from heretic.model.components import EMBEDDINGS
from heretic.model.loading import Model


@dataclass(frozen=True)
class OutputEdit:
    """The edit of one writer's output; all tensors in float32 at least, on the writer's device.

    Attributes:
        units: D [k, d_model].
        scaled: diag(s) D [k, d_model].
        input_scale: c [d_in], or None; of embeddings that of each token.
        output_scale: r [d_model] or g [1], or None.
        shift: what is added at the end [d_model], or None.
    """

    units: Tensor
    scaled: Tensor
    input_scale: Tensor | None = None
    output_scale: Tensor | None = None
    shift: Tensor | None = None

    def of_input(self, states: Tensor) -> Tensor:
        """What the writer is given [..., d_in] instead of `states`, in their dtype."""
        return states if self.input_scale is None else (states * self.input_scale).to(states.dtype)

    def of_output(self, output: Tensor) -> Tensor:
        """What the writer puts out [..., d_model] instead of `output`, in its dtype."""
        rows = output.reshape(-1, output.shape[-1]).to(self.units.dtype)
        edited = torch.addmm(rows, rows @ self.units.T, self.scaled, alpha=-1)
        if self.output_scale is not None:
            edited = edited.mul_(self.output_scale)
        if self.shift is not None:
            edited = edited.add_(self.shift)
        return edited.view(output.shape).to(output.dtype)


class OutputSideEditor:
    """Edits what a model computes and none of its weights, which must not change meanwhile.

    Its hooks stay with the model for good and do nothing for writers that a trial does not edit.
    """

    def __init__(self, model: Model, norm_preservation: NormPreservation) -> None:
        """Put hooks on the writers of a model in its original state.

        Raises:
            ModelLoadError: the output of a module of experts is not that of its matrices alone, or
                norms are to be restored in such a module, or of a matrix that is offloaded.
        """
        self.model = model
        self.norm_preservation: NormPreservation = norm_preservation
        packed = [writer for writer in model.anatomy.writers if writer.is_raw]
        if packed and norm_preservation != "none":
            raise ModelLoadError(
                f"norm_preservation={norm_preservation} is each expert's own, and the experts of "
                f"{packed[0].name} have one output in common; {INSTEAD} or norm_preservation=none"
            )
        _require_at_hand(model, norm_preservation)
        require_summed_outputs(model)
        self._norms: dict[str, RestoredNorms] = {}
        with_inputs = norm_preservation == "column"
        self._taps = {
            w.name: _TokenTap(w.module)
            if w.component == EMBEDDINGS
            else _Tap(w.module, with_inputs)
            for w in model.anatomy.writers
        }

    def abliterate(self, edits: Sequence[Edit]) -> None:
        """Bring the model into the state of these edits, whatever its state was.

        Raises:
            ModelLoadError: directions do not fit a writer, and nothing was changed.
        """
        wanted = {e.writer.name: self._output_edit(e) for e in edits if any(e.strengths)}
        for name, tap in self._taps.items():
            tap.edit = wanted.get(name)

    def restore(self) -> None:
        """Bring the original model back, bit for bit."""
        self.abliterate([])

    def _output_edit(self, edit: Edit) -> OutputEdit:
        writer, width = edit.writer, self.model.anatomy.d_model
        if edit.directions.shape[-1] != width:
            raise ModelLoadError(
                f"{writer.name} writes {width} channels, and its directions have "
                f"{edit.directions.shape[-1]}; are they those of this model?"
            )
        wide = torch.promote_types(self.model.loaded_dtype, torch.float32)
        units = edit.directions.to(writer.device, wide)
        scaled = units * units.new_tensor(edit.strengths)[:, None]
        if self.norm_preservation == "none":
            return OutputEdit(units, scaled)
        factors = self._norms_of(writer).factors(edit.directions, edit.strengths)
        if self.norm_preservation == "column":
            return OutputEdit(units, scaled, input_scale=factors)
        shift = None
        if writer.bias is not None:
            bias = ablate_bias(writer.bias.to(wide), edit.directions, edit.strengths)
            shift = (1 - factors) * bias
        return OutputEdit(units, scaled, output_scale=factors, shift=shift)

    def _norms_of(self, writer: StreamWriter) -> RestoredNorms:
        if writer.name not in self._norms:
            self._norms[writer.name] = RestoredNorms(
                partial(writer.numbers, self.model.loaded_dtype), self.norm_preservation
            )
        return self._norms[writer.name]


def _require_at_hand(model: Model, norm_preservation: NormPreservation) -> None:
    if norm_preservation == "none":
        return
    away = next((w for w in model.anatomy.writers if w.offloaded), None)
    if away is not None:
        raise ModelLoadError(
            f"norm_preservation={norm_preservation} needs the weights of {away.name}, which are "
            "offloaded; set norm_preservation=none, or raise max_memory"
        )


class _Tap:
    """Hooks of one module, which apply the edit of the moment, if there is one."""

    def __init__(self, module: nn.Module, with_inputs: bool) -> None:
        self.edit: OutputEdit | None = None
        module.register_forward_hook(self._change_output)
        if with_inputs:
            module.register_forward_pre_hook(self._change_input)

    def _change_input(self, _: nn.Module, args: Any) -> Any:
        return None if self.edit is None else (self.edit.of_input(args[0]), *args[1:])

    def _change_output(self, _: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return None if self.edit is None else self.edit.of_output(output)


class _TokenTap(_Tap):
    """Hooks of the embeddings, which are given tokens."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, with_inputs=False)

    def _change_output(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        edited = super()._change_output(module, args, output)
        if self.edit is None or edited is None or self.edit.input_scale is None:
            return edited
        factors = self.edit.input_scale[args[0].to(self.edit.input_scale.device)]
        return (edited * factors[..., None]).to(edited.dtype)

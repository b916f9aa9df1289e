"""Edits of one writer's output, for one trial or for several with mixed rows.

The directions of K trials are stacked to [K k, d_model]. Each row's products with all of them are
multiplied by a mask, which is zero for other trials' directions, before they are subtracted: two
matrix products for the whole batch, however its rows are mixed. The mask is computed when rows are
assigned, not in each pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from heretic.errors import ModelLoadError


@dataclass(frozen=True)
class OutputEdit:
    """The edit of one writer's output; all tensors in float32 at least, on the writer's device.

    Attributes:
        units: D [k, d_model].
        scaled: diag(s) D [k, d_model].
        input_scale: c [d_in], or None; for embeddings, the factor of each token.
        output_scale: r [d_model] or g [1], or None.
        shift: constant added at the end [d_model], or None.
    """

    units: Tensor
    scaled: Tensor
    input_scale: Tensor | None = None
    output_scale: Tensor | None = None
    shift: Tensor | None = None

    def of_input(self, states: Tensor) -> Tensor:
        """Return the writer's edited input [..., d_in] for `states`, in their dtype."""
        return states if self.input_scale is None else (states * self.input_scale).to(states.dtype)

    def of_output(self, output: Tensor) -> Tensor:
        """Return the writer's edited output [..., d_model] for `output`, in its dtype."""
        rows = output.reshape(-1, output.shape[-1]).to(self.units.dtype)
        edited = torch.addmm(rows, rows @ self.units.T, self.scaled, alpha=-1)
        if self.output_scale is not None:
            edited = edited.mul_(self.output_scale)
        if self.shift is not None:
            edited = edited.add_(self.shift)
        return edited.view(output.shape).to(output.dtype)

    def of_tokens(self, tokens: Tensor, output: Tensor) -> Tensor:
        """Return the edited embeddings [..., d_model] of `tokens` [...] for `output`."""
        edited = self.of_output(output)
        if self.input_scale is None:
            return edited
        factors = self.input_scale[tokens.to(self.input_scale.device)]
        return (edited * factors[..., None]).to(edited.dtype)


class RowAssignment:
    """Assignment of a batch's rows to trials, on one device.

    Attributes:
        trial: trial of each row of the batch, int64 [batch]; [1] if all rows belong to one trial.
        mask: 1 for the directions of a row's trial, 0 for others' [batch or 1, trials * k].
    """

    def __init__(self, trials: int, count: int, device: torch.device, dtype: torch.dtype) -> None:
        """Assign all rows to trial 0 of `trials`, which have `count` directions each."""
        self._of_direction = torch.arange(trials, device=device).repeat_interleave(count)
        self._dtype = dtype
        self.trial, self.mask = self._made(torch.zeros(1, dtype=torch.long))

    def assign(self, rows: int | Tensor) -> None:
        """Assign all rows, or each row; tensors of unchanged size are written in place."""
        with torch.inference_mode(False):  # else in-place writes would require inference mode
            given = rows if isinstance(rows, Tensor) else torch.tensor([rows])
            trial, mask = self._made(given)
            if trial.shape == self.trial.shape:
                self.trial.copy_(trial)
                self.mask.copy_(mask)
            else:
                self.trial, self.mask = trial, mask

    def _made(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        trial = rows.to(self._of_direction.device, copy=True)
        return trial, (trial[:, None] == self._of_direction).to(self._dtype)


class MixedEdit:
    """The edits of one writer's output by several trials, each applied to its own rows.

    Its tensors keep their memory and are written in place. A trial that does not edit the writer
    has zero directions, scales of one and no shift.
    """

    def __init__(self, name: str, owners: RowAssignment, trials: int, neutral: OutputEdit) -> None:
        """Initialize without edits.

        Args:
            name: name of the writer.
            owners: row assignment on the writer's device, for `trials` trials with as many
                directions as `neutral`.
            trials: maximum number of trials.
            neutral: edit without effect that has the parts, shapes and dtype of all edits.
        """
        self.name, self.owners, self.trials = name, owners, trials
        self._neutral = neutral
        self._units = neutral.units.repeat(trials, 1, 1)
        self._scaled = neutral.scaled.repeat(trials, 1, 1)
        self.units, self.scaled = self._units.flatten(0, 1), self._scaled.flatten(0, 1)
        self.input_scale = _repeated(neutral.input_scale, trials)
        self.output_scale = _repeated(neutral.output_scale, trials)
        self.shift = _repeated(neutral.shift, trials)

    def put(self, trial: int, edit: OutputEdit | None) -> None:
        """Set the edit of one of the trials; None for no edit.

        An edit may have fewer directions than reserved.
        """
        given = edit or self._neutral
        for place, rows in ((self._units, given.units), (self._scaled, given.scaled)):
            place[trial].zero_()[: len(rows)].copy_(rows)
        for name in ("input_scale", "output_scale", "shift"):
            place, part = getattr(self, name), getattr(given, name)
            if place is not None:
                place[trial].copy_(getattr(self._neutral, name) if part is None else part)

    def of_input(self, states: Tensor) -> Tensor:
        """Return the writer's edited input [batch, tokens, d_in] or [batch * tokens, d_in]."""
        if self.input_scale is None:
            return states
        scaled = self._by_owner(states) * self._chosen(self.input_scale)
        return scaled.view(states.shape).to(states.dtype)

    def of_output(self, output: Tensor) -> Tensor:
        """Return the edited output [batch, tokens, d_model] or [batch * tokens, d_model]."""
        return self._edited(output).view(output.shape).to(output.dtype)

    def of_tokens(self, tokens: Tensor, output: Tensor) -> Tensor:
        """Return the edited embeddings [batch, tokens, d_model] of `tokens` [batch, tokens]."""
        if self.input_scale is None:
            return self.of_output(output)
        there = tokens.to(self.units.device).reshape(len(self.owners.trial), -1)
        factors = self.input_scale[self.owners.trial[:, None], there]
        edited = self._edited(output).to(output.dtype) * factors[..., None]
        return edited.view(output.shape).to(output.dtype)

    def _edited(self, output: Tensor) -> Tensor:
        """Return the edited output [batch, tokens, d_model] in the wide dtype."""
        by_owner = self._by_owner(output.to(self.units.dtype))
        along = by_owner @ self.units.T * self.owners.mask[:, None]
        rows, width = by_owner.flatten(0, 1), output.shape[-1]
        edited = torch.addmm(rows, along.flatten(0, 1), self.scaled, alpha=-1)
        edited = edited.view(len(by_owner), -1, width)
        if self.output_scale is not None:
            edited = edited.mul_(self._chosen(self.output_scale))
        if self.shift is not None:
            edited = edited.add_(self._chosen(self.shift))
        return edited

    def _by_owner(self, states: Tensor) -> Tensor:
        """Return a view with the batch rows as its first dimension [batch or 1, tokens, width].

        Raises:
            ModelLoadError: the rows are not those of all tokens of the batch.
        """
        batch, width = len(self.owners.trial), states.shape[-1]
        count = states.numel() // width
        if count % batch or (states.ndim > 2 and batch not in (1, len(states))):
            raise ModelLoadError(
                f"{self.name} gets states of shape {tuple(states.shape)} for a batch of {batch}, "
                "so several trials in one batch cannot be distinguished; set trial_batch_size=1"
            )
        return states.reshape(batch, count // batch, width)

    def _chosen(self, parts: Tensor) -> Tensor:
        """Return the part of each row's trial [batch or 1, 1, width]."""
        return parts.index_select(0, self.owners.trial)[:, None]


def _repeated(part: Tensor | None, trials: int) -> Tensor | None:
    return None if part is None else part.repeat(trials, 1)

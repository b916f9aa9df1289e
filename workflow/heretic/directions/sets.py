"""Residuals for extracting, protecting and evaluating directions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heretic.errors import DirectionError


@dataclass(frozen=True)
class ResidualSets:
    """Residuals of each prompt set.

    States are [n_prompts, n_layers + 1, d_model], or [n_prompts, n_positions, n_layers + 1,
    d_model] if several positions were read; index 0 of the layers is the embeddings.

    Attributes:
        good, bad: sets for extraction.
        held_out_good, held_out_bad: other prompts of both kinds, for evaluation.
        unhelpfulness: plain texts, or None.
        unhelpfulness_mean: their mean (the shape of one state), if only that was kept.
        sacred: prompts of an ability to protect, or None.
    """

    good: Tensor
    bad: Tensor
    held_out_good: Tensor
    held_out_bad: Tensor
    unhelpfulness: Tensor | None = None
    unhelpfulness_mean: Tensor | None = None
    sacred: Tensor | None = None

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Mapping[str, Tensor]]) -> "ResidualSets":
        """Create from the tensors of each prompt set's file, by the name of the set.

        Raises:
            DirectionError: states are missing, from another model, or non-finite.
        """
        plain = tensors.get("unhelpfulness_prompts", {})
        sacred = tensors.get("sacred_prompts", {})
        try:
            found = cls(
                good=tensors["good_prompts"]["residuals"],
                bad=tensors["bad_prompts"]["residuals"],
                held_out_good=tensors["good_evaluation_prompts"]["residuals"],
                held_out_bad=tensors["bad_evaluation_prompts"]["residuals"],
                unhelpfulness=plain.get("residuals"),
                unhelpfulness_mean=plain.get("mean"),
                sacred=sacred.get("residuals"),
            )
        except KeyError as error:
            raise DirectionError(f"the residuals lack {error}; extract them again") from error
        found.check()
        return found

    def check(self) -> None:
        """Reject sets that are inconsistent, too small or non-finite.

        Raises:
            DirectionError: the message names the set.
        """
        if min(len(self.good), len(self.bad)) < 2:
            raise DirectionError(
                "a prompt set has a single prompt, so its geometry cannot be measured; give "
                "good_prompts and bad_prompts at least 2 prompts, preferably 100"
            )
        for name, values in self._present().items():
            shape = values.shape if name == "unhelpfulness_mean" else values.shape[1:]
            if shape != self.good.shape[1:]:
                raise DirectionError(
                    f"residuals of {name} have shape {list(shape)} per prompt and those of good "
                    f"{list(self.good.shape[1:])}; delete the residuals and extract them again"
                )
            if not torch.isfinite(values).all():
                raise DirectionError(
                    "the residual stream has non-finite values; load the model with dtype=bfloat16 "
                    "or dtype=float32"
                )

    @property
    def n_positions(self) -> int:
        """Number of positions per prompt."""
        return self.good.shape[1] if self.good.ndim == 4 else 1

    def at(self, position: int) -> "ResidualSets":
        """Return the states at one position, counted from the end: -1 is the last prompt token."""
        if self.good.ndim != 4:
            return self
        # Negative, so that it is the same with and without the axis of the prompts.
        axis = -3
        return replace(self, **{k: v.select(axis, position) for k, v in self._present().items()})

    def _present(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}

"""From residuals to the directions that a search ablates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from heretic.console import log
from heretic.directions.contrast import contrastive_pca, mean_difference
from heretic.directions.orthogonalize import normalize, orthogonalize
from heretic.errors import DirectionError


@dataclass(frozen=True)
class DirectionExtractionResult:
    """Directions by stream state, float32 [n_layers + 1, d_model] with unit rows.

    Row 0 belongs to the embeddings. It is zero when all prompts end in the same token, as chat
    templates make them do: no direction can be there.

    Attributes:
        refusal_directions: from good to bad, orthogonal to what is protected.
        unhelpfulness_directions: from plain text to requests, or None.
        sacred_directions: from plain text (or good prompts) to the protected ability, or None.
    """

    refusal_directions: Tensor
    unhelpfulness_directions: Tensor | None
    sacred_directions: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """Those directions that exist, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ExtractionOptions:
    """How directions are found; fields as the settings of the same names."""

    direction_method: Literal["mean_difference", "contrastive_pca"]
    cpca_alpha: float
    cpca_center: Literal["good", "class"]
    orthogonalize_to_good: bool
    min_remaining_norm: float

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "ExtractionOptions":
        """Pick the options out of a larger set of settings."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__})


def extract_directions(
    good: Tensor,
    bad: Tensor,
    options: ExtractionOptions,
    unhelpfulness: Tensor | None = None,
    sacred: Tensor | None = None,
) -> DirectionExtractionResult:
    """Find each layer's direction and take the protected ones out of it.

    Args:
        good, bad, unhelpfulness, sacred: residuals [n, n_layers + 1, d_model].
        options: method and protection.

    Raises:
        DirectionError: the sets cannot be told apart in a layer, or nothing is left there.
    """
    for residuals in (good, bad, unhelpfulness, sacred):
        if residuals is not None:
            _require_numbers(residuals)
    refusal = normalize(_contrast(bad, good, options))
    _require_directions(refusal)
    helpful = None if unhelpfulness is None else normalize(mean_difference(good, unhelpfulness))
    plain = good if unhelpfulness is None else unhelpfulness
    protected = None if sacred is None else normalize(_contrast(sacred, plain, options))
    good_mean = good.double().mean(0) if options.orthogonalize_to_good else None
    against = [vectors for vectors in (good_mean, helpful, protected) if vectors is not None]
    remaining = orthogonalize(refusal, against, options.min_remaining_norm)
    if against:
        kept = (refusal * remaining).sum(-1)[1:]
        log.info(
            "Orthogonalised against %d vectors a layer; cosine to before: %.3f to %.3f",
            len(against),
            float(kept.min()),
            float(kept.max()),
        )
    return DirectionExtractionResult(
        remaining.float(),
        None if helpful is None else helpful.float(),
        None if protected is None else protected.float(),
    )


def _contrast(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    if options.direction_method == "mean_difference":
        return mean_difference(bad, good)
    return contrastive_pca(bad, good, options.cpca_alpha, options.cpca_center)


def _require_numbers(residuals: Tensor) -> None:
    if not torch.isfinite(residuals).all():
        raise DirectionError(
            "the residual stream holds values that are no numbers; load the model with "
            "dtype=bfloat16 or dtype=float32"
        )


def _require_directions(directions: Tensor) -> None:
    empty = [layer for layer in range(1, len(directions)) if directions[layer].norm() == 0]
    if empty:
        raise DirectionError(
            f"good and bad prompts leave the same state after layer {empty[0] - 1}; use prompt "
            "sets that the model treats differently"
        )

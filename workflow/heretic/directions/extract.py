"""Extraction of the directions to ablate from residuals."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heretic.ablation.linalg import normalize
from heretic.directions.diagnostics import CPU, Contrast, contrast, directions_of
from heretic.directions.options import GOOD, HELPFULNESS, SACRED, ExtractionOptions
from heretic.directions.orthogonalize import orthogonalize
from heretic.directions.separation import (
    Separation,
    best_position,
    evaluate_separation,
    permutation_band,
)
from heretic.directions.sets import ResidualSets
from heretic.errors import DirectionError


@dataclass(frozen=True)
class DirectionExtractionResult:
    """Directions by stream state, float32 with unit rows; index 0 belongs to the embeddings.

    Row 0 is zero if all prompts end in the same token, as is usual with chat templates, since no
    direction exists there.

    Attributes:
        refusal_directions: [n_layers + 1, d_model], or [n_layers + 1, k, d_model] if several:
            orthonormal, orthogonal to the protected directions, each from good to bad.
        direction_weights: share of a trial's strength for each direction [n_layers + 1, k].
        unhelpfulness_directions: from plain text to requests [n_layers + 1, d_model], or None.
        sacred_directions: from plain text (or good prompts) to the protected ability, with the
            shape of `refusal_directions`, or None.
        remaining: length of each direction that remains after protection [n_layers + 1, k].
        contrast: diagnostics of the directions before protection.
        separation: separation of held-out prompts by the first direction.
        position: position of the states, counted from the end of the prompt.
    """

    refusal_directions: Tensor
    direction_weights: Tensor
    unhelpfulness_directions: Tensor | None
    sacred_directions: Tensor | None
    remaining: Tensor
    contrast: Contrast
    separation: Separation
    position: int

    def tensors(self) -> dict[str, Tensor]:
        """Return the contents of `directions.safetensors`, by name."""
        found = {
            "refusal_directions": self.refusal_directions,
            "unhelpfulness_directions": self.unhelpfulness_directions,
            "sacred_directions": self.sacred_directions,
            "direction_weights": self.direction_weights,
            "discriminative": self.separation.discriminative,
            "position": torch.tensor([self.position]),
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class ProtectedDirections:
    """Directions after protection, float64 on the CPU.

    Attributes:
        units: orthonormal rows [n_layers + 1, k, d_model], each from good to bad.
        remaining: length of each row that remains after protection [n_layers + 1, k].
        helpfulness: from plain text to requests [n_layers + 1, d_model], or None.
        sacred: the protected ability's [n_layers + 1, m, d_model], or None.
    """

    units: Tensor
    remaining: Tensor
    helpfulness: Tensor | None
    sacred: Tensor | None


def extract_directions(
    sets: ResidualSets, options: ExtractionOptions, device: torch.device = CPU
) -> DirectionExtractionResult:
    """Find each layer's directions, remove the protected ones from them, and evaluate the result.

    If several positions were read, the one that separates best is used throughout.

    Args:
        sets: residuals of all prompt sets.
        options: methods and protection.
        device: device of the computation.

    Raises:
        DirectionError: good and bad prompts cannot be distinguished after a layer, or nothing of a
            direction remains there.
    """
    chance = permutation_band(sets, options.seed)
    position = best_position(sets) if sets.n_positions > 1 else -1
    sets = sets.at(position)
    found = contrast(sets.bad, sets.good, options, device)
    protected = protect(found.directions, sets, options, device)
    units, helpful, sacred = protected.units, protected.helpfulness, protected.sacred
    separation = evaluate_separation(sets, units[:, 0], found.control, chance, options.seed)
    return DirectionExtractionResult(
        refusal_directions=_squeezed(units.float()),
        direction_weights=_weights(units, sets, options).float(),
        unhelpfulness_directions=None if helpful is None else helpful.float(),
        sacred_directions=None if sacred is None else _squeezed(sacred.float()),
        remaining=protected.remaining,
        contrast=found,
        separation=separation,
        position=position,
    )


def protect(
    directions: Tensor, sets: ResidualSets, options: ExtractionOptions, device: torch.device = CPU
) -> ProtectedDirections:
    """Remove the protected vectors from directions.

    Args:
        directions: output of `directions_of` for `sets` [n_layers + 1, k, d_model].
        sets: residuals of all prompt sets, at one position.
        options: extraction options of the directions, and protection.
        device: device of the computation.

    Raises:
        DirectionError: a layer has no direction, or nothing of it remains there.
    """
    _require_directions(directions)
    if options.direction_method == "contrastive_pca":
        _require_contrast(directions, sets.bad, sets.good, options)
    helpful, sacred = _helpfulness(sets), _sacred(sets, options, device)
    against = _protected(sets, helpful, sacred, options)
    units, remaining = orthogonalize(
        directions, against, options.min_remaining_norm, options.orthogonalization
    )
    return ProtectedDirections(_towards_bad(units, sets), remaining, helpful, sacred)


def _helpfulness(sets: ResidualSets) -> Tensor | None:
    """Return the directions from plain texts to requests, unit rows [layers, d_model]."""
    if sets.unhelpfulness is not None:
        plain = sets.unhelpfulness.mean(0, dtype=torch.float64)
    elif sets.unhelpfulness_mean is not None:
        plain = sets.unhelpfulness_mean.double()
    else:
        return None
    return normalize(sets.good.mean(0, dtype=torch.float64) - plain)


def _sacred(sets: ResidualSets, options: ExtractionOptions, device: torch.device) -> Tensor | None:
    """Return contrastive PCA of the protected ability against plain texts [layers, k, d_model]."""
    if sets.sacred is None:
        return None
    plain = sets.good if sets.unhelpfulness is None else sets.unhelpfulness
    alone = replace(
        options, direction_method="contrastive_pca", n_directions=options.n_sacred_directions
    )
    found = directions_of(sets.sacred, plain, alone, device)
    _require_contrast(found, sets.sacred, plain, alone)
    return found


def _protected(
    sets: ResidualSets, helpful: Tensor | None, sacred: Tensor | None, options: ExtractionOptions
) -> dict[str, Tensor]:
    """Return protected vectors [layers, m, d_model] in the removal order of `sequential`."""
    found: dict[str, Tensor] = {}
    if options.orthogonalize_to_good:
        found[GOOD] = sets.good.mean(0, dtype=torch.float64)[:, None]
    if helpful is not None:
        found[HELPFULNESS] = helpful[:, None]
    if sacred is not None:
        found[SACRED] = sacred
    return found


def _towards_bad(units: Tensor, sets: ResidualSets) -> Tensor:
    """Return rows from good to bad again, since orthogonalization may flip a direction."""
    difference = sets.bad.mean(0, dtype=torch.float64) - sets.good.mean(0, dtype=torch.float64)
    along = torch.einsum("lkd,ld->lk", units, difference)
    return torch.where((along < 0)[..., None], -units, units)


def _require_contrast(
    directions: Tensor, bad: Tensor, good: Tensor, options: ExtractionOptions
) -> None:
    """Reject eigenvectors along which good prompts vary at least as much as bad ones."""
    for layer, rows in enumerate(directions):
        good_mean = good[:, layer].mean(0, dtype=torch.float64)
        bad_mean = bad[:, layer].mean(0, dtype=torch.float64)
        about = good_mean if options.cpca_center == "good" else bad_mean
        spread = ((bad[:, layer] - about) @ rows.T).square().mean(0)
        usual = ((good[:, layer] - good_mean) @ rows.T).square().mean(0)
        usable = int((spread > options.cpca_alpha * usual).sum())
        if layer > 0 and usable < len(rows):
            raise DirectionError(
                f"after layer {layer - 1} contrastive PCA finds only {usable} of {len(rows)} "
                "directions along which the variance of one set exceeds "
                f"cpca_alpha={options.cpca_alpha:g} times that of the other; lower cpca_alpha, "
                "n_directions or n_sacred_directions"
            )


def _weights(units: Tensor, sets: ResidualSets, options: ExtractionOptions) -> Tensor:
    """Return shares of the strength [layers, k]; the largest is 1 for `explained_variance`.

    Explained variance is the second moment of bad states about the good mean along a direction,
    so that a difference of means counts as well.
    """
    layers, count, _ = units.shape
    if options.direction_weights == "equal":
        return torch.ones(layers, count)
    if options.direction_weights != "explained_variance":
        return torch.tensor(options.direction_weights).expand(layers, count)
    explained = torch.stack(
        [
            ((bad - good.mean(0, dtype=torch.float64)) @ rows.T).square().mean(0)
            for bad, good, rows in zip(sets.bad.unbind(1), sets.good.unbind(1), units, strict=True)
        ]
    )
    largest = explained.max(-1, keepdim=True).values
    return torch.where(largest > 0, explained / largest, 1.0)


def _squeezed(directions: Tensor) -> Tensor:
    """Return [layers, d_model] instead of [layers, 1, d_model]."""
    return (directions.squeeze(1) if directions.shape[1] == 1 else directions).contiguous()


def _require_directions(directions: Tensor) -> None:
    empty = [layer for layer in range(1, len(directions)) if not directions[layer, 0].any()]
    if empty:
        raise DirectionError(
            f"good and bad prompts produce the same state after layer {empty[0] - 1}; use prompt "
            "sets to which the model responds differently"
        )

"""Geometry of the residual sets and the directions, layer by layer."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from heretic.directions.extract import DirectionExtractionResult
from heretic.directions.options import METHODS
from heretic.directions.sets import ResidualSets

Columns = dict[str, list[float] | list[int]]


def geometry_rows(sets: ResidualSets, result: DirectionExtractionResult) -> list[dict[str, Any]]:
    """Return the rows of `geometry.csv`, one per stream state; index 0 is the embeddings.

    Norms and cosines of means and geometric medians refer to the prompts used for extraction;
    `auroc`, `cohens_d` and `control_auroc` to held-out ones. Angles are in degrees, between the
    directions before orthogonalization, and empty where there is no such direction.
    """
    sets = sets.at(result.position)
    refusal = result.refusal_directions.double()
    refusal = refusal if refusal.ndim == 3 else refusal[:, None]
    columns: Columns = {
        "layer": list(range(len(refusal))),
        "position": [result.position] * len(refusal),
        **_clouds(sets, refusal[:, 0]),
        **_medians(result, refusal[:, 0]),
        "silhouette": result.contrast.silhouette.tolist(),
        "explained_variance": _explained_variance(sets, refusal),
        **_separation(result),
        **_trust(result),
        **_angles(result),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _clouds(sets: ResidualSets, direction: Tensor) -> Columns:
    good, bad = sets.good.mean(0, dtype=torch.float64), sets.bad.mean(0, dtype=torch.float64)
    return {
        "good_norm": good.norm(dim=-1).tolist(),
        "bad_norm": bad.norm(dim=-1).tolist(),
        "direction_norm": (bad - good).norm(dim=-1).tolist(),
        "cosine_good_bad": _cosine(good, bad),
        "cosine_good_direction": _cosine(good, direction),
        "cosine_bad_direction": _cosine(bad, direction),
    }


def _medians(result: DirectionExtractionResult, direction: Tensor) -> Columns:
    good, bad = result.contrast.good_median, result.contrast.bad_median
    return {
        "median_cosine_good_bad": _cosine(good, bad),
        "median_cosine_good_direction": _cosine(good, direction),
        "median_cosine_bad_direction": _cosine(bad, direction),
    }


def _separation(result: DirectionExtractionResult) -> Columns:
    found = result.separation
    low, high = found.chance
    return {
        "auroc": list(found.auroc),
        "cohens_d": list(found.cohens_d),
        "control_auroc": list(found.control_auroc),
        "chance_low": [low] * len(found.auroc),
        "chance_high": [high] * len(found.auroc),
        "discriminative": found.discriminative.tolist(),
    }


def _trust(result: DirectionExtractionResult) -> Columns:
    agreement = result.contrast.agreement.T.tolist()
    return {
        "stability": result.contrast.stability.tolist(),
        **{f"agreement_{name}": row for name, row in zip(METHODS, agreement, strict=True)},
        "probe_accuracy": result.contrast.probe_accuracy.tolist(),
        "remaining_norm": result.remaining[:, 0].tolist(),
        **{
            f"remaining_norm_{number + 1}": result.remaining[:, number].tolist()
            for number in range(1, result.remaining.shape[1])
        },
    }


def _angles(result: DirectionExtractionResult) -> dict[str, Any]:
    """Return the angles between the first refusal, helpfulness and sacred directions."""
    known = {
        "refusal": result.contrast.directions[:, 0],
        "helpfulness": result.unhelpfulness_directions,
        "sacred": result.sacred_directions,
    }
    pairs = (("refusal", "helpfulness"), ("refusal", "sacred"), ("helpfulness", "sacred"))
    return {f"angle_{a}_{b}": _degrees(known[a], known[b], len(result.remaining)) for a, b in pairs}


def _degrees(one: Tensor | None, other: Tensor | None, layers: int) -> list[float | None]:
    if one is None or other is None:
        return [None] * layers
    first, second = (
        rows.double() if rows.ndim == 2 else rows[:, 0].double() for rows in (one, other)
    )
    there = (first.norm(dim=-1) > 0) & (second.norm(dim=-1) > 0)
    angles = torch.rad2deg(torch.arccos((first * second).sum(-1).clamp(-1, 1))).tolist()
    return [angle if known else None for angle, known in zip(angles, there.tolist(), strict=True)]


def _cosine(first: Tensor, second: Tensor) -> list[float]:
    found: list[float] = cosine_similarity(first, second, dim=-1).tolist()
    return found


def _explained_variance(sets: ResidualSets, directions: Tensor) -> list[float]:
    """Return the pooled variance share in the span of the directions [layers, k, d_model]."""
    found = []
    for bad, good, rows in zip(sets.bad.unbind(1), sets.good.unbind(1), directions, strict=True):
        pooled = torch.cat([bad, good]).double()
        pooled -= pooled.mean(0)
        total = float(pooled.square().sum())
        found.append(float((pooled @ rows.T).square().sum()) / total if total > 0 else 0.0)
    return found

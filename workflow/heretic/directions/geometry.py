"""How the two sets of residuals lie to each other and to the direction, layer by layer."""

from typing import Any

import torch
from sklearn.metrics import roc_auc_score, silhouette_score
from torch import Tensor
from torch.nn.functional import cosine_similarity

from heretic.directions.contrast import mean_difference
from heretic.errors import DirectionError


def geometry_rows(bad: Tensor, good: Tensor, directions: Tensor, seed: int) -> list[dict[str, Any]]:
    """One row per stream state; index 0 is the embeddings.

    Args:
        bad, good: residuals [n, n_layers + 1, d_model].
        directions: unit rows [n_layers + 1, d_model].
        seed: of the split behind `auroc`.

    Returns:
        Rows with the norms of both means and of their difference, cosines between means and
        direction, the silhouette of the two sets, the share of the pooled variance that lies
        along the direction, and `auroc`: how well a difference of means taken on one half of the
        prompts separates the other half (both halves in turn).

    Raises:
        DirectionError: a set has a single prompt, which cannot be halved.
    """
    if min(len(bad), len(good)) < 2:
        raise DirectionError(
            "a prompt set has a single prompt, so that nothing can be said of its geometry; give "
            "good_prompts and bad_prompts at least 2 prompts, better 100"
        )
    difference = mean_difference(bad, good)
    separation = cross_fitted_auroc(bad, good, seed)
    rows = []
    for layer in range(bad.shape[1]):
        bad_layer, good_layer = bad[:, layer].double(), good[:, layer].double()
        bad_mean, good_mean = bad_layer.mean(0), good_layer.mean(0)
        direction = directions[layer].double()
        pooled = torch.cat([bad_layer, good_layer])
        rows.append(
            {
                "layer": layer,
                "good_norm": float(good_mean.norm()),
                "bad_norm": float(bad_mean.norm()),
                "direction_norm": float(difference[layer].norm()),
                "cosine_good_bad": _cosine(good_mean, bad_mean),
                "cosine_good_direction": _cosine(good_mean, direction),
                "cosine_bad_direction": _cosine(bad_mean, direction),
                "silhouette": _silhouette(bad_layer, good_layer),
                "explained_variance": _explained_variance(pooled, direction),
                "auroc": separation[layer],
            }
        )
    return rows


def cross_fitted_auroc(bad: Tensor, good: Tensor, seed: int) -> list[float]:
    """AUROC by layer of projections on a difference of means fitted to other prompts."""
    generator = torch.Generator().manual_seed(seed)
    bad_halves = torch.randperm(len(bad), generator=generator).tensor_split(2)
    good_halves = torch.randperm(len(good), generator=generator).tensor_split(2)
    by_half = []
    for fit, test in ((0, 1), (1, 0)):
        fitted = mean_difference(bad[bad_halves[fit]], good[good_halves[fit]])
        bad_scores = (bad[bad_halves[test]].double() * fitted).sum(-1)
        good_scores = (good[good_halves[test]].double() * fitted).sum(-1)
        labels = [1] * len(bad_scores) + [0] * len(good_scores)
        scores = torch.cat([bad_scores, good_scores])
        by_half.append([float(roc_auc_score(labels, column)) for column in scores.T.numpy()])
    return [sum(pair) / 2 for pair in zip(*by_half, strict=True)]


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(cosine_similarity(first, second, dim=0))


def _silhouette(bad: Tensor, good: Tensor) -> float:
    points = torch.cat([bad, good])
    if torch.allclose(points, points[0]):
        return 0.0
    labels = [1] * len(bad) + [0] * len(good)
    return float(silhouette_score(points.numpy(), labels))


def _explained_variance(pooled: Tensor, direction: Tensor) -> float:
    centred = pooled - pooled.mean(0)
    total = float(centred.square().sum())
    return float((centred @ direction).square().sum()) / total if total > 0 else 0.0

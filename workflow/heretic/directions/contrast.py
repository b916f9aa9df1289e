"""Directions that tell two sets of residuals apart, one layer or a batch of layers at a time.

Residuals are [n_prompts, layers, d_model]; sums are taken in float64.
"""

from typing import Literal

import torch
from torch import Tensor

# Below this share of the states' own norm two sets are the same but for rounding.
INDISTINGUISHABLE = 1e-6


def mean_difference(bad: Tensor, good: Tensor) -> Tensor:
    """Difference of means, bad minus good (Arditi et al. 2024, eq. 2).

    Returns:
        [layers, d_model] float64, not normalised; exactly zero where the sets do not differ.
    """
    bad_mean, good_mean = bad.double().mean(0), good.double().mean(0)
    difference = bad_mean - good_mean
    scale = good_mean.norm(dim=-1, keepdim=True)
    same = difference.norm(dim=-1, keepdim=True) <= INDISTINGUISHABLE * scale
    return torch.where(same, 0.0, difference)


def contrastive_pca(
    bad: Tensor, good: Tensor, alpha: float, center: Literal["good", "class"]
) -> Tensor:
    """Top eigenvector of C_bad - alpha C_good per layer (Abid et al. 2018).

    The matrix has at most n_bad + n_good non-zero eigenvalues, so the eigenproblem is solved
    exactly in the span of the residuals: with A = [B / sqrt(n_bad); sqrt(alpha / n_good) G],
    S = diag(+1, -1) and A^T = Q R, it is C = Q (R S R^T) Q^T.

    Args:
        bad, good: residuals [n, layers, d_model].
        alpha: weight of the good covariance.
        center: mean about which C_bad is taken. About its own (`class`) the difference of means,
            which is the main signal, is discarded.

    Returns:
        [layers, d_model] float64 unit vectors with the sign of the mean difference; zero where
        the sets do not differ.
    """
    difference = mean_difference(bad, good)
    rows = [
        _top_contrast(bad[:, layer].double(), good[:, layer].double(), alpha, center)
        for layer in range(bad.shape[1])
    ]
    top = torch.stack(rows)
    along = (top * difference).sum(-1, keepdim=True)
    signed = torch.where(along < 0, -top, top)
    return torch.where(difference.norm(dim=-1, keepdim=True) > 0, signed, 0.0)


def _top_contrast(
    bad: Tensor, good: Tensor, alpha: float, center: Literal["good", "class"]
) -> Tensor:
    """Unit vector [d_model] of one layer's residuals [n, d_model], of either sign."""
    good_mean = good.mean(0)
    about = good_mean if center == "good" else bad.mean(0)
    stacked = torch.cat(
        [(bad - about) / len(bad) ** 0.5, (good - good_mean) * (alpha / len(good)) ** 0.5]
    )
    signs = torch.cat([torch.ones(len(bad)), -torch.ones(len(good))]).to(stacked)
    basis, coordinates = torch.linalg.qr(stacked.T)  # [d, r], [r, n]
    small = (coordinates * signs) @ coordinates.T
    top = torch.linalg.eigh(small).eigenvectors[:, -1]
    vector: Tensor = basis @ top
    return vector

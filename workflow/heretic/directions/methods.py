"""Directions that separate bad from good states, for a batch of layers.

States are [layers, n, r]: coordinates of a `Subspace`, or the stream itself. Every method returns
unit, mutually orthogonal rows [layers, k, r] in a fixed order, each with the sign that points from
good to bad: its product with the difference of means is not negative. Rows are zero where the
means do not differ.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from heretic.ablation.linalg import normalize, orthonormalize
from heretic.directions.options import ExtractionOptions
from heretic.errors import DirectionError
from heretic.settings.types import Method

FOLDS = 5
MOST_ITERATIONS = 500
Array = npt.NDArray[np.float64]


def probe_directions(bad: Tensor, good: Tensor, n_directions: int, c: float) -> Tensor:
    """Return unit normals [layers, n_directions, r] of the separating planes, from good to bad.

    Each further normal is fitted after projecting out the preceding ones (iterative null-space
    projection, Ravfogel et al. 2020). The L2 penalty makes the solution lie in the span of the
    states, and one scale for all components makes it the same in any basis.

    Args:
        bad, good: states [layers, n, r].
        n_directions: number of normals.
        c: inverse strength of the penalty, for components of unit variance on average.
    """
    with _fitting():
        found = [_normals(*layer, n_directions, c) for layer in _layers(bad, good)]
    return orthonormalize(torch.from_numpy(np.stack(found)))[0].to(bad.device)


def _normals(states: Array, labels: Array, n_directions: int, c: float) -> Array:
    """Return rows [n_directions, r]; zero where the states do not differ at all."""
    normals: list[Array] = []
    for _ in range(n_directions):
        normal = _classifier(c).fit(states, labels).coef_[0]
        normal = normal / max(float(np.linalg.norm(normal)), np.finfo(float).tiny)
        normals.append(normal)
        states = states - np.outer(states @ normal, normal)
    return np.stack(normals)


def probe_accuracy(bad: Tensor, good: Tensor, c: float, seed: int) -> list[float]:
    """Return the cross-validated accuracy by layer, balanced over the two sets; chance is 0.5.

    Uses five folds, or fewer if a set has fewer prompts.
    """
    folds = StratifiedKFold(
        min(FOLDS, bad.shape[1], good.shape[1]), shuffle=True, random_state=seed
    )
    with _fitting():
        return [
            float(
                cross_val_score(
                    _classifier(c), *layer, cv=folds, scoring="balanced_accuracy"
                ).mean()
            )
            for layer in _layers(bad, good)
        ]


@contextmanager
def _fitting() -> Iterator[None]:
    """Within the block, use one thread, as more do not pay off in problems of this size.

    Also suppress warnings: if Newton's method stalls, scikit-learn reports it and falls back to
    another solver.
    """
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _classifier(c: float) -> LogisticRegression:
    # Newton's method converges to the optimum: a result must not depend on the basis.
    return LogisticRegression(C=c, solver="newton-cholesky", max_iter=MOST_ITERATIONS)


def _layers(bad: Tensor, good: Tensor) -> list[tuple[Array, Array]]:
    """Return centered states of unit average variance per component, and labels, of each layer."""
    labels = np.r_[np.ones(bad.shape[1]), np.zeros(good.shape[1])]
    states = torch.cat([bad, good], 1).double().cpu()
    states = states - states.mean(1, keepdim=True)
    scale = states.square().mean((1, 2), keepdim=True).sqrt()
    states = states / torch.where(scale > 0, scale, 1.0)
    return [(layer, labels) for layer in states.numpy()]


def mean_difference(bad: Tensor, good: Tensor) -> Tensor:
    """Return the difference of means, bad minus good (Arditi et al. 2024, eq. 2), unnormalized.

    Returns:
        [layers, r] float64.
    """
    return bad.double().mean(1) - good.double().mean(1)


def find_directions(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    """Return the directions of `options.direction_method`, [layers, n_directions, r] float64.

    Raises:
        DirectionError: there are too few prompts for the number of directions.
    """
    if options.n_directions > 1 and options.methods == {"mean_difference"}:
        raise DirectionError(
            "a difference of means gives one direction; set n_directions=1 or another "
            "direction_method"
        )
    if options.direction_method == "ensemble":
        return _ensemble(bad, good, options)
    count, most = options.n_directions, min(bad.shape[1], good.shape[1], bad.shape[2])
    if count > most:
        raise DirectionError(
            f"{most} prompts or dimensions cannot give {count} directions; lower n_directions or "
            "n_sacred_directions, or give more prompts"
        )
    found = FINDERS[options.direction_method](bad.double(), good.double(), options)
    return _towards_bad(found, mean_difference(bad, good))


def _means(bad: Tensor, good: Tensor, _: ExtractionOptions) -> Tensor:
    return normalize(mean_difference(bad, good))[:, None]


def _contrastive_pca(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    """Return the top eigenvectors of C_bad - alpha C_good (Abid et al. 2018), largest first.

    C_bad is centered on the good mean unless `cpca_center` is `class`: centering on its own mean
    discards the difference of means, which is the main signal.
    """
    good_mean = good.mean(1, keepdim=True)
    about = good_mean if options.cpca_center == "good" else bad.mean(1, keepdim=True)
    spread, usual = bad - about, good - good_mean
    contrast = spread.mT @ spread / bad.shape[1]
    contrast -= options.cpca_alpha / good.shape[1] * (usual.mT @ usual)
    vectors: Tensor = torch.linalg.eigh(contrast).eigenvectors
    return vectors[..., -options.n_directions :].flip(-1).mT


def _paired_pca(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    """Return the principal axes of bad_i - good_i (Zou et al. 2023), largest singular value first.

    The differences are not centered, because their mean is the main signal. The i-th prompts of
    both sets are paired; surplus prompts of the larger set are ignored.
    """
    pairs = min(bad.shape[1], good.shape[1])
    differences = bad[:, :pairs] - good[:, :pairs]
    axes: Tensor = torch.linalg.svd(differences, full_matrices=False).Vh
    return axes[:, : options.n_directions]


def _probe(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    return probe_directions(bad, good, options.n_directions, options.probe_c)


Finder = Callable[[Tensor, Tensor, ExtractionOptions], Tensor]
FINDERS: dict[Method, Finder] = {
    "mean_difference": _means,
    "contrastive_pca": _contrastive_pca,
    "pca": _paired_pca,
    "probe": _probe,
}


def _ensemble(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    """Return the weighted mean of the methods' first directions, then the rest of their span.

    Further directions are the principal axes of all methods' weighted directions, less the first.
    """
    rows = []
    for method, weight in options.weight_of_method.items():
        count = 1 if method == "mean_difference" else options.n_directions
        alone = replace(options, direction_method=method, n_directions=count)
        rows.append(weight * find_directions(bad, good, alone))
    first = normalize(torch.stack([found[:, :1] for found in rows]).sum(0))
    if options.n_directions == 1:
        return first
    spanned = torch.cat(rows, 1)
    beyond = spanned - (spanned @ first.mT) @ first
    axes = torch.linalg.svd(beyond, full_matrices=False).Vh
    axes = axes[:, : options.n_directions - 1]
    found, _ = orthonormalize(torch.cat([first, axes], 1))
    return _towards_bad(found, mean_difference(bad, good))


def _towards_bad(directions: Tensor, difference: Tensor) -> Tensor:
    """Return each row with the sign of the difference of means; zero where there is none."""
    along = (directions * difference[:, None]).sum(-1, keepdim=True)
    signed = torch.where(along < 0, -directions, directions)
    differs = difference.norm(dim=-1) > 0
    return torch.where(differs[:, None, None], signed, 0.0)

"""A linear probe: logistic regression of bad against good states, layer by layer."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from heretic.ablation.vectors import orthonormalize

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
        normal = _probe(c).fit(states, labels).coef_[0]
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
            float(cross_val_score(_probe(c), *layer, cv=folds, scoring="balanced_accuracy").mean())
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


def _probe(c: float) -> LogisticRegression:
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

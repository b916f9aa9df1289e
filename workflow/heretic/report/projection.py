"""Residuals of every layer in two dimensions, with the direction if the projection is linear.

For principal components, good and bad states are stacked and centered, X = U S Vᵀ; points are the
first two columns of U S. PaCMAP is nonlinear, so it cannot show a direction.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heretic.report.embedding import Method, embed
from heretic.report.states import States

if TYPE_CHECKING:
    from torch import Tensor

Point = tuple[float, float]
Points = tuple[Point, ...]
MOST_STATES = (
    500  # per prompt set: more would take minutes for a deep model without visible difference
)


@dataclass(frozen=True)
class Arrow:
    """The direction in the plane: from the center of the good cloud over the distance of the means.

    `in_plane` is the share of the unit direction's length within the plane.
    """

    start: Point
    end: Point
    in_plane: float


@dataclass(frozen=True)
class Plane:
    """Two clouds of points; `variance` is the share of each axis in the total, None for PaCMAP."""

    layer: int
    good: Points
    bad: Points
    arrow: Arrow | None
    variance: tuple[float, float] | None


def project(states: States, method: Method) -> Iterator[Plane]:
    """Yield the plane of each layer, starting with the embeddings.

    Raises:
        HereticError: Residuals are not finite, or PaCMAP is missing or has too few states.
    """
    for layer, direction in enumerate(states.directions):
        good, bad = states.layer(layer, MOST_STATES)
        if method == "pacmap":
            yield embed_states(layer, good, bad)
        else:
            yield project_states(layer, good, bad, direction)


def project_states(layer: int, good: "Tensor", bad: "Tensor", direction: "Tensor") -> Plane:
    """Project states [n_good, d_model] and [n_bad, d_model] of one layer and its unit direction.

    The bad cloud is placed on the right, because the signs of the axes are otherwise arbitrary.
    """
    import torch

    states = torch.cat([good, bad])
    states = states - states.mean(dim=0)
    # Use the small Gram matrix X Xᵀ = U S² Uᵀ, since states have far more components than there
    # are states.
    squares, left = torch.linalg.eigh(states @ states.T)
    squares, left = squares.clamp(min=0).flip(0)[:2], left.flip(1)[:, :2]
    total = float(states.square().sum())
    shares = [float(value) / total if total else 0.0 for value in squares]
    kept = torch.tensor([share > 1e-12 for share in shares])  # the rest is rounding
    roots = squares.sqrt()
    plane = torch.where(kept[:, None], left.T @ states / roots.clamp(min=1e-300)[:, None], 0.0)
    gap = bad.mean(dim=0) - good.mean(dim=0)
    signs = [gap @ plane[0], plane[1][plane[1].abs().argmax()]]
    plane *= torch.tensor([-1.0 if sign < 0 else 1.0 for sign in signs]).unsqueeze(1)
    points = states @ plane.T
    flat = plane @ direction
    start = points[: len(good)].mean(dim=0)
    end = start + flat * (gap @ direction)
    return Plane(
        layer=layer,
        good=_pairs(points[: len(good)]),
        bad=_pairs(points[len(good) :]),
        arrow=Arrow(_pairs(start[None])[0], _pairs(end[None])[0], float(flat.norm())),
        variance=(shares[0], shares[1]),
    )


def embed_states(layer: int, good: "Tensor", bad: "Tensor") -> Plane:
    """Embed states [n_good, d_model] and [n_bad, d_model] by PaCMAP, the bad cloud on the right.

    Raises:
        HereticError: PaCMAP is missing or has too few states.
    """
    import torch

    points = embed(torch.cat([good, bad]))
    points = points - points.mean(dim=0)
    if points[: len(good), 0].mean() > points[len(good) :, 0].mean():
        points[:, 0] *= -1
    return Plane(layer, _pairs(points[: len(good)]), _pairs(points[len(good) :]), None, None)


def _pairs(points: "Tensor") -> Points:
    return tuple((float(x), float(y)) for x, y in points)

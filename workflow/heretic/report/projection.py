"""Residuals of one layer in two dimensions, by principal components, with the direction in them.

Good and bad states are stacked and centred, X = U S Vᵀ; points are the first two columns of U S.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heretic.errors import HereticError
from heretic.report.reading import read_layer

if TYPE_CHECKING:
    from torch import Tensor

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Projection:
    """Two clouds of points in the plane of the first two principal components.

    `arrow` runs from the middle of the good cloud along the direction, as far as the means of the
    clouds lie apart along it; `in_plane` is the share of the unit direction's length that the
    plane holds, `variance` the share of the total variance on each axis.
    """

    layer: int
    good: Points
    bad: Points
    arrow: tuple[tuple[float, float], tuple[float, float]]
    in_plane: float
    variance: tuple[float, float]


def separating_layer(geometry: Mapping[str, Sequence[float | None]]) -> int:
    """The layer with the highest AUROC; the silhouette decides between equals, then the depth."""
    pairs = zip(geometry["auroc"], geometry["silhouette"], strict=True)
    keys = [tuple(-2.0 if value is None else value for value in pair) for pair in pairs]
    return max(range(len(keys)), key=keys.__getitem__)


def project(folder: Path, layer: int) -> Projection:
    """Project both prompt sets' residuals of `layer` onto their two main axes.

    Raises:
        HereticError: a file is missing or damaged, or the files do not fit together.
    """
    good = read_layer(folder / "residuals" / "good_prompts.safetensors", "residuals", layer)
    bad = read_layer(folder / "residuals" / "bad_prompts.safetensors", "residuals", layer)
    source = folder / "directions.safetensors"
    direction = read_layer(source, "refusal_directions", layer)
    direction = direction if direction.ndim == 1 else direction[0]  # the first of several
    if good.ndim != 2 or bad.ndim != 2 or {good.shape[1], bad.shape[1]} != {direction.shape[0]}:
        raise HereticError(
            f"{source} has width {direction.shape[0]} but the residuals beside it have shapes "
            f"{list(good.shape)} and {list(bad.shape)}; delete them and run again"
        )
    return project_states(layer, good, bad, direction)


def project_states(layer: int, good: "Tensor", bad: "Tensor", direction: "Tensor") -> Projection:
    """Project states [n_good, d_model] and [n_bad, d_model] of one layer and its unit direction.

    The bad cloud lies on the right: signs of the axes are otherwise arbitrary.
    """
    import torch

    states = torch.cat([good, bad])
    states = states - states.mean(dim=0)
    _, spread, axes = torch.linalg.svd(states, full_matrices=False)
    plane = torch.zeros(2, states.shape[1], dtype=states.dtype)
    plane[: min(2, len(axes))] = axes[:2]
    gap = bad.mean(dim=0) - good.mean(dim=0)
    signs = [gap @ plane[0], plane[1][plane[1].abs().argmax()]]
    plane *= torch.tensor([-1.0 if sign < 0 else 1.0 for sign in signs]).unsqueeze(1)
    points = states @ plane.T
    flat = plane @ direction
    start = points[: len(good)].mean(dim=0)
    end = start + flat * (gap @ direction)
    total = float(spread.square().sum()) or 1.0
    shares = [float(value) ** 2 / total for value in spread[:2]] + [0.0, 0.0]
    return Projection(
        layer=layer,
        good=_pairs(points[: len(good)]),
        bad=_pairs(points[len(good) :]),
        arrow=(_pairs(start[None])[0], _pairs(end[None])[0]),
        in_plane=float(flat.norm()),
        variance=(shares[0], shares[1]),
    )


def _pairs(points: "Tensor") -> Points:
    return tuple((round(float(x), 6), round(float(y), 6)) for x, y in points)

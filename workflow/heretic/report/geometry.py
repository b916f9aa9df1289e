"""geometry.csv: diagnostics of every layer's direction, and the layers used by an edit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from heretic.artifact_types import Best
from heretic.report.files import blaming, number, read_rows
from heretic.settings.types import Method

Column = tuple[float | None, ...]
Geometry = Mapping[str, Column]

MEAN_COSINES = ("cosine_good_bad", "cosine_good_direction", "cosine_bad_direction")
MEDIAN_COSINES = tuple(f"median_{name}" for name in MEAN_COSINES)
AGREEMENTS = tuple(f"agreement_{method}" for method in get_args(Method))
ANGLES = ("angle_refusal_helpfulness", "angle_refusal_sacred", "angle_helpfulness_sacred")
SHARES = (
    "explained_variance", "auroc", "control_auroc", "chance_low", "chance_high", "probe_accuracy",
    "remaining_norm",
)  # fmt: skip
# Bounds of each column's values, which rounding may exceed slightly.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(SHARES, (0.0, 1.0)),
    **dict.fromkeys((*MEAN_COSINES, *MEDIAN_COSINES, *AGREEMENTS, "stability"), (-1.0, 1.0)),
    **dict.fromkeys(ANGLES, (0.0, 180.0)),
    "silhouette": (-1.0, 1.0),
}
SLACK = 1e-4
COLUMNS = (
    "layer", "position", "good_norm", "bad_norm", "direction_norm", "cohens_d", "discriminative",
    *BOUNDS,
)  # fmt: skip


def read_geometry(path: Path) -> dict[str, Column]:
    """Return the columns of geometry.csv by name, one value per state; empty cells are None.

    Raises:
        HereticError: The file is missing, lacks a column, or has a value out of bounds.
    """
    rows = read_rows(path, COLUMNS)
    with blaming(path):
        columns = {name: tuple(number(row[name]) for row in rows) for name in rows[0]}
        if columns["layer"] != tuple(range(len(rows))):
            raise ValueError("its layers are not numbered from 0")
        for name, (low, high) in BOUNDS.items():
            for value in columns[name]:
                if value is not None and not low - SLACK <= value <= high + SLACK:
                    raise ValueError(f"{name} {value:g} is not in {low:g} to {high:g}")
        if not set(columns["discriminative"]) <= {0, 1, None}:
            raise ValueError("discriminative is neither 0 nor 1")
        places = [place for place in columns["position"] if place is not None]
        if any(place >= 0 or place % 1 for place in places):
            raise ValueError("a position is not a negative token index")
        for low_end, high_end in zip(columns["chance_low"], columns["chance_high"], strict=True):
            if low_end is not None and high_end is not None and low_end > high_end:
                raise ValueError(f"chance_low {low_end:g} is above chance_high {high_end:g}")
    return columns


def separating_layer(geometry: Geometry) -> int:
    """Return the state with the highest AUROC; ties are broken by the silhouette, then the depth.

    The embeddings, whose direction is not used by any edit, are returned only without alternative.
    """
    pairs = zip(geometry["auroc"], geometry["silhouette"], strict=True)
    keys = [tuple(-2.0 if value is None else value for value in pair) for pair in pairs]
    return max(range(1, len(keys)), key=keys.__getitem__, default=0)


def indistinct_layers(geometry: Geometry) -> tuple[int, ...]:
    """Return the states that do not separate held-out prompts better than chance."""
    flags = enumerate(geometry["discriminative"])
    return tuple(layer for layer, flag in flags if flag != 1)


def used_states(best: Best) -> tuple[int, ...]:
    """Return the states whose direction is removed by the selected edit, in ascending order.

    Decoder layer l of a per-layer edit uses state l + 1, its output; a global edit uses the state
    at its index, or both neighbors of a fractional index.
    """
    strengths = best.strengths.values()
    edited = {layer for values in strengths for layer, value in enumerate(values) if value}
    if best.directions["scope"] != "global":
        return tuple(sorted(layer + 1 for layer in edited))
    index = best.directions["index"] or 0.0
    neighbours = {int(index), int(index) + (index % 1 > 0)}
    return tuple(sorted(neighbours)) if edited else ()


def spans(numbers: Sequence[int]) -> str:
    """Format ascending integers with consecutive ones joined: 0-2, 5."""
    groups: list[list[int]] = []
    for index in numbers:
        if groups and index == groups[-1][-1] + 1:
            groups[-1].append(index)
        else:
            groups.append([index])
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)

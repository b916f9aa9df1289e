"""Diagnostic figures of directions: agreement of halves, methods and neighboring layers."""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, get_args

import plotly.graph_objects as go

from heretic.report.chart import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    STATES,
    Chart,
    Line,
    add_level,
    add_lines,
    figure,
    layer_figure,
    whole_layers,
)
from heretic.report.geometry import ANGLES, Geometry
from heretic.report.run_reader import Run
from heretic.settings.types import Method

if TYPE_CHECKING:
    from torch import Tensor

METHOD_LABELS = {"contrastive_pca": "contrastive PCA", "pca": "PCA", "probe": "linear probe"}
METHOD_STYLES = (
    (BLUE, "dash", "circle"),
    (ORANGE, "dot", "triangle-up"),
    (GREEN, "dashdot", "diamond"),
    (PURPLE, "solid", "x"),
)
AGREEMENT: tuple[Line, ...] = (
    ("stability", "random halves", GREY, "solid", "square"),
    *(
        (f"agreement_{method}", METHOD_LABELS.get(method, method.replace("_", " ")), *style)
        for method, style in zip(get_args(Method), cycle(METHOD_STYLES), strict=False)
    ),
)
BETWEEN: tuple[Line, ...] = (
    ("angle_refusal_helpfulness", "refusal, helpfulness", BLUE, "solid", "circle"),
    ("angle_refusal_sacred", "refusal, sacred", ORANGE, "dash", "triangle-up"),
    ("angle_helpfulness_sacred", "helpfulness, sacred", GREEN, "dot", "diamond"),
)
LEFT: tuple[Line, ...] = (("remaining_norm", "remaining norm", PURPLE, "solid", "square"),)
# Orange, background, blue: transparent, so that numbers are legible on light and dark pages.
DIVERGING = [
    [0.0, "rgba(217, 119, 43, 0.75)"],
    [0.5, "rgba(138, 138, 138, 0.06)"],
    [1.0, "rgba(63, 134, 207, 0.75)"],
]
MOST_NUMBERED = 16  # rows whose cosines still fit in their cells
OPPOSED = -0.1  # cosines below it are marked by a minus sign if there is no room for numbers


def agreement(run: Run) -> Chart:
    """Plot the cosines of directions of random halves and with those of other methods."""
    table = run.geometry
    count = len(table["layer"])
    lowest = min((v for line in AGREEMENT for v in table[line[0]] if v is not None), default=0.0)
    panels = {"Cosine": {"range": [min(0.0, lowest) - 0.05, 1.05]}}
    fig = layer_figure("Agreement between halves and methods", panels, count, 400)
    add_lines(fig, table, "y", AGREEMENT)
    halves = [value for value in table["stability"] if value is not None]
    return Chart(
        "agreement",
        fig,
        "1 means the same direction, 0 an unrelated one. Random halves: cosine between the "
        "directions of two halves of the prompts; if they disagree, more prompts are needed. Other "
        "lines: cosine between the direction and that of each method on the same prompts. All "
        "before orthogonalization.",
        "Lines by state of the cosine between directions"
        + (f"; random halves agree between {min(halves):.2f} and {max(halves):.2f}."
           if halves else "."),
    )  # fmt: skip


def angles(run: Run) -> Chart | None:
    """Plot the angles between refusal, helpfulness and sacred directions, if there are any.

    Includes the norm of the refusal direction remaining after orthogonalization.
    """
    table = run.geometry
    used = [line for line in BETWEEN if _has_values(table, line[0])]
    if not used:
        return None
    count = len(table["layer"])
    panels: dict[str, dict[str, Any]] = {
        "Angle (degrees)": {"range": [0, 185], "dtick": 45},
        "Remaining norm": {"range": [-0.05, 1.05]},
    }
    fig = layer_figure("Overlap with protected directions", panels, count, 520)
    add_lines(fig, table, "y", used)
    add_level(fig, count, 90, "90°")
    add_lines(fig, table, "y2", LEFT)
    told = "; ".join(f"{name} {_range(table, column)}" for column, name, *_ in used)
    return Chart(
        "angles",
        fig,
        "Angles before orthogonalization: at 90° two directions have no overlap, and removing one "
        "preserves the other. Remaining norm: of the unit refusal direction after "
        "orthogonalization against the protected ones.",
        f"Lines by state of the angles between directions, in degrees: {told}.",
    )


def _has_values(table: Geometry, column: str) -> bool:
    assert column in ANGLES
    return any(value is not None for value in table[column])


def _range(table: Geometry, column: str) -> str:
    values = [value for value in table[column] if value is not None]
    return f"{min(values):.0f} to {max(values):.0f}"


def rotation(directions: "Tensor") -> Chart:
    """Plot the cosines between the directions [n_layers + 1, d_model] of all pairs of layers."""
    cosines = _cosines(directions)
    count = len(cosines)
    down = {**whole_layers(count), "range": [count - 0.5, -0.5]}
    fig = figure("Similarity of directions across layers", STATES, {"State": down}, 640)
    fig.update_xaxes({**whole_layers(count), "range": [-0.5, count - 0.5], "constrain": "domain"})
    # A square on the left, regardless of page width.
    fig.update_yaxes(scaleanchor="x", constrain="domain", constraintoward="top", showgrid=False)
    fig.update_xaxes(constraintoward="left", showgrid=False)
    numbered = count <= MOST_NUMBERED
    fig.add_heatmap(
        z=cosines, zmin=-1, zmax=1, colorscale=DIVERGING, hoverongaps=False,
        xgap=1 if numbered else 0, ygap=1 if numbered else 0,
        hovertemplate="states %{x} and %{y}: %{z:.2f}<extra></extra>",
        texttemplate="%{z:.2f}" if numbered else None,
        textfont={"color": GREY} if numbered else None,
        colorbar={
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "len": 0.4, "thickness": 10, "tickvals": [-1, -0.5, 0, 0.5, 1], "outlinewidth": 0,
        },
    )  # fmt: skip
    if not numbered:
        _add_signs(fig, cosines)
    return Chart("rotation", fig, _about_turns(cosines, numbered), _alt_of_turns(cosines))


def _cosines(directions: "Tensor") -> list[list[float | None]]:
    """Return rounded cosines of all pairs of rows; None if a layer has no direction."""
    import torch

    norms = directions.norm(dim=-1, keepdim=True)
    units = torch.where(norms > 0, directions / norms, math.nan)
    rows = (units @ units.T).clamp(-1, 1).tolist()
    return [[None if math.isnan(value) else round(value, 3) for value in row] for row in rows]


def _add_signs(fig: go.Figure, cosines: Sequence[Sequence[float | None]]) -> None:
    """Mark every clearly negative cell by a minus, so that the sign does not depend on color."""
    cells = _negative(cosines)
    if cells:
        fig.add_scatter(
            x=[column for column, _ in cells], y=[row for _, row in cells], mode="markers",
            name="negative", showlegend=False, hoverinfo="skip",
            marker={"symbol": "line-ew-open", "color": GREY, "size": 3.5, "line": {"width": 1}},
        )  # fmt: skip


def _negative(cosines: Sequence[Sequence[float | None]]) -> list[tuple[int, int]]:
    """Return column and row of the clearly negative cells."""
    return [
        (column, row)
        for row, values in enumerate(cosines)
        for column, value in enumerate(values)
        if value is not None and value < OPPOSED
    ]


def _turns(cosines: Sequence[Sequence[float | None]]) -> list[tuple[float, int]]:
    """Return the cosine of each layer's direction with the next one's, in ascending order."""
    pairs = ((cosines[layer][layer + 1], layer) for layer in range(len(cosines) - 1))
    return sorted((value, layer) for value, layer in pairs if value is not None)


def _about_turns(cosines: Sequence[Sequence[float | None]], numbered: bool) -> str:
    text = "Cosine between the directions of each pair of states: a faint cell means a change."
    for value, layer in _turns(cosines)[:1]:
        text += f" Neighbors differ most between states {layer} and {layer + 1} ({value:.2f})."
    if not numbered and _negative(cosines):
        text += f" Cells below {OPPOSED} are marked by a minus."
    return text


def _alt_of_turns(cosines: Sequence[Sequence[float | None]]) -> str:
    found = _turns(cosines)
    span = f"; neighbors have {found[0][0]:.2f} to {found[-1][0]:.2f}" if found else ""
    return f"Heat map of the cosine between the directions of {len(cosines)} states{span}."

"""Figures by layer: strength of the edit, and separation of good and bad prompts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from heretic.model.stream_writers.components import BEFORE_LAYERS, EMBEDDINGS
from heretic.report.chart import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Chart,
    Line,
    add_level,
    add_lines,
    figure,
    layer_figure,
    whole_layers,
)
from heretic.report.geometry import (
    MEAN_COSINES,
    MEDIAN_COSINES,
    Column,
    Geometry,
    indistinct_layers,
    separating_layer,
    spans,
)
from heretic.report.run_reader import Run

BAND = "rgba(138, 138, 138, 0.28)"
FLAG = {"symbol": "x-thin-open", "color": ORANGE, "size": 9, "line": {"width": 2}}
CONTROL = {"symbol": "triangle-down", "color": PURPLE, "size": 8}
AUROC: tuple[Line, ...] = (("auroc", "AUROC", BLUE, "solid", "circle"),)
DISTANCE: tuple[Line, ...] = (("cohens_d", "Cohen's d", GREEN, "dash", "diamond"),)
SCORES: tuple[Line, ...] = (
    ("probe_accuracy", "probe accuracy", BLUE, "solid", "circle"),
    ("silhouette", "silhouette", ORANGE, "dash", "square"),
    ("explained_variance", "explained variance", GREEN, "dot", "diamond"),
)
COSINES: tuple[Line, ...] = (
    ("cosine_good_bad", "cos(good, bad)", PURPLE, "solid", "triangle-up"),
    ("cosine_good_direction", "cos(good, d)", GREEN, "dash", "triangle-down"),
    ("cosine_bad_direction", "cos(bad, d)", ORANGE, "dot", "x"),
)


def layer_profile(run: Run) -> Chart:
    """Plot the strength of the selected edit by layer and component."""
    strengths = run.best.strengths
    count = max(len(values) for values in strengths.values())
    fig = figure("Strength of the selected edit", _layer_title(strengths), {"Strength w": {}}, 360)
    fig.update_xaxes(whole_layers(count))
    if EMBEDDINGS in strengths:
        fig.update_xaxes(range=[BEFORE_LAYERS - 0.6, count - 0.4])
    looks = zip((BLUE, ORANGE, GREEN, PURPLE), ("", "/", "x", "."), strict=True)
    for (name, values), (color, pattern) in zip(strengths.items(), looks, strict=False):
        # Patterns have a transparent background: distinct in grayscale, legible in dark mode.
        marker = {"color": color, "line": {"color": color, "width": 1}}
        if pattern:
            marker["pattern"] = {"shape": pattern, "fillmode": "replace", "size": 7}
        layers = [BEFORE_LAYERS] if name == EMBEDDINGS else list(range(len(values)))
        fig.add_bar(x=layers, y=list(values), name=name, marker=marker)
    fig.update_layout(bargap=0.3)
    found = run.best.directions
    shared = found["scope"] == "global"
    which = (
        f"the direction at index {found['index']:.4g}" if shared else "each layer's own direction"
    )
    return Chart(
        "layer_profile",
        fig,
        f"W' = W - w·d(dᵀW) with {which}{_several(run)}. w = 1 removes the component of a matrix's "
        "output along the direction, w > 1 reverses it, 0 leaves the matrix unchanged.",
        "Bar chart of the strength by layer: "
        + "; ".join(_touched(name, values) for name, values in strengths.items()),
    )


def _layer_title(strengths: Mapping[str, Any]) -> str:
    return f"Decoder layer (0 = first{', -1 = embeddings' * (EMBEDDINGS in strengths)})"


def _touched(name: str, values: Sequence[float]) -> str:
    """Describe the layers in which a component is edited."""
    edited = sum(value != 0 for value in values)
    if name == EMBEDDINGS:
        return f"{name} {'edited' if edited else 'not edited'}"
    return f"{name} edited in {edited} of {len(values)} layers"


def _several(run: Run) -> str:
    """Describe the number of directions removed from each matrix, if more than one."""
    count = max((len(edit["strengths"]) for edit in run.ablation.get("edits", [])), default=1)
    return f", in turn for each of {count} orthogonal directions and its share of w" * (count > 1)


def separation(run: Run) -> Chart:
    """Plot the separation of held-out prompts at each layer, against chance and a control."""
    table = run.geometry
    count = len(table["layer"])
    shown = [*table["auroc"], *table["control_auroc"], *table["chance_low"]]
    lowest = min((value for value in shown if value is not None), default=0.5)
    panels = {
        "AUROC": {"range": [lowest - 0.12, 1.04]},
        "Cohen's d": {"range": _around(table["cohens_d"])},
    }
    fig = layer_figure("Separation of good and bad prompts", panels, count, 560)
    _add_band(fig, table["chance_low"], table["chance_high"])
    add_lines(fig, table, "y", AUROC)
    fig.add_scatter(
        x=list(range(count)), y=list(table["control_auroc"]), mode="markers",
        name="relabeled control", marker=CONTROL,
    )  # fmt: skip
    flagged = indistinct_layers(table)
    if flagged:
        fig.add_scatter(
            x=list(flagged), y=[lowest - 0.07] * len(flagged), mode="markers",
            name="not above chance", hoverinfo="name", marker=FLAG,
        )  # fmt: skip
    add_lines(fig, table, "y2", DISTANCE)
    best = separating_layer(table)
    auroc = table["auroc"][best]
    return Chart(
        "separation",
        fig,
        "Measured on held-out prompts, which were not used to compute directions. AUROC: how often "
        "a bad prompt projects further along the direction than a good one. The band contains 95% "
        "of chance results, simultaneously over all states. Control: the direction of randomly "
        "relabeled prompts, evaluated on relabeled held-out prompts. Cohen's d: distance of the "
        "means along the direction, in standard deviations. " + " ".join(_doubts(table)),
        f"Lines by state; state {best} separates best"
        + (f", with AUROC {auroc:.3f}" if auroc is not None else "")
        + (f"; states {spans(flagged)} are not above chance." if flagged else "."),
    )


def _around(values: Column) -> list[float]:
    """Return a range of zero and all values, with room for markers."""
    known = [0.0, *(value for value in values if value is not None)]
    room = 0.06 * (max(known) - min(known) or 1.0)
    return [min(known) - room, max(known) + room]


def _add_band(fig: go.Figure, low: Column, high: Column) -> None:
    """Add a filled band between two columns, interrupted at missing values."""
    x: list[float | None] = []
    y: list[float | None] = []
    for piece in _pieces(low, high):
        ends = [piece[0] - 0.4, *piece, piece[-1] + 0.4]  # give a single layer some width
        rows = [piece[0], *piece, piece[-1]]
        x += [*ends, *reversed(ends), None]
        y += [*(high[row] for row in rows), *(low[row] for row in reversed(rows)), None]
    fig.add_scatter(
        x=x[:-1], y=y[:-1], mode="lines", name="chance (95%)", fill="toself", fillcolor=BAND,
        line={"color": GREY, "width": 1, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip


def _pieces(low: Column, high: Column) -> Iterator[list[int]]:
    """Yield runs of consecutive layers that have both values."""
    piece: list[int] = []
    for layer, pair in enumerate(zip(low, high, strict=True)):
        if None not in pair:
            piece.append(layer)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _doubts(table: Geometry) -> Iterator[str]:
    """Yield sentences about unreliable directions."""
    flagged = indistinct_layers(table)
    if flagged:
        yield f"Not above chance, thus no evidence for a direction: states {spans(flagged)}."
    rows = zip(table["control_auroc"], table["chance_low"], table["chance_high"], strict=True)
    outside = [
        layer
        for layer, (control, low, high) in enumerate(rows)
        if control is not None
        and ((low is not None and control < low) or (high is not None and control > high))
    ]
    if outside:
        yield f"The control leaves the band at states {spans(outside)}."


def clouds_by_layer(run: Run) -> Chart:
    """Plot the compactness of the clouds, and the cosines of their means and the direction."""
    table = run.geometry
    count = len(table["layer"])
    lowest = min((value for value in table["silhouette"] if value is not None), default=0.0)
    panels = {
        "Score": {"range": [min(0.0, lowest) - 0.05, 1.05]},
        "Cosine": {"range": [-1.05, 1.05]},
    }
    fig = layer_figure("Clusters and direction", panels, count, 560)
    add_lines(fig, table, "y", SCORES)
    add_lines(fig, table, "y2", COSINES)
    add_level(fig, count, 0.0, "right angle", "y2")
    gap = _largest_gap(table)
    return Chart(
        "geometry",
        fig,
        "Measured on the prompts used to compute the direction d. Probe accuracy: of a "
        "cross-validated linear classifier. Silhouette (-1 to 1): compactness and separation of "
        "the two clouds. Explained variance: share of the total variance along d. Cosines are "
        "those of the clouds' means"
        + (f"; those of their geometric medians differ by at most {gap:.2f}." if gap else "."),
        "Two panels by state: three scores between the clouds, and cosines between their means "
        "and the direction.",
    )


def _largest_gap(table: Geometry) -> float | None:
    """Return the largest change of a cosine when means are replaced by medians."""
    pairs = [
        pair
        for mean, median in zip(MEAN_COSINES, MEDIAN_COSINES, strict=True)
        for pair in zip(table[mean], table[median], strict=True)
    ]
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=None)

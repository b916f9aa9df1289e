"""Figures by layer: where the edit acts, where good and bad prompts part, and how far."""

from collections.abc import Sequence

import plotly.graph_objects as go

from heretic.evaluation.summary import percent
from heretic.report.chart import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Chart,
    figure,
    whole_layers,
)
from heretic.report.projection import Projection, separating_layer
from heretic.report.reading import Run

MOST_MARKERS = 16  # on a line, so that deep models do not turn it into a band
WEAK_AUROC = 0.7  # layers below it are named in the caption

Line = tuple[str, str, str, str, str]
SCORES: tuple[Line, ...] = (
    ("auroc", "AUROC", BLUE, "solid", "circle"),
    ("silhouette", "silhouette", ORANGE, "dash", "square"),
    ("explained_variance", "explained variance", GREEN, "dot", "diamond"),
)
COSINES: tuple[Line, ...] = (
    ("cosine_good_bad", "cos(good, bad)", PURPLE, "solid", "triangle-up"),
    ("cosine_good_direction", "cos(good, d)", GREEN, "dash", "triangle-down"),
    ("cosine_bad_direction", "cos(bad, d)", ORANGE, "dot", "x"),
)


def layer_profile(run: Run) -> Chart:
    """Strength of the chosen edit by layer and component."""
    strengths = run.best["strengths"]
    count = max(len(values) for values in strengths.values())
    fig = figure("Where the chosen edit acts", "Decoder layer (0 = first)", {"Strength w": {}}, 360)
    fig.update_xaxes(whole_layers(count))
    looks = zip((BLUE, ORANGE, GREEN, PURPLE), ("", "/", "x", "."), strict=True)
    for (name, values), (colour, pattern) in zip(strengths.items(), looks, strict=False):
        # A pattern is drawn in the colour on transparency: distinct in grey, readable in the dark.
        marker = {"color": colour, "line": {"color": colour, "width": 1}}
        if pattern:
            marker["pattern"] = {"shape": pattern, "fillmode": "replace", "size": 7}
        fig.add_bar(x=list(range(len(values))), y=list(values), name=name, marker=marker)
    fig.update_layout(bargap=0.3)
    found = run.best["directions"]
    shared = found["scope"] == "global"
    which = (
        f"the direction at index {found['index']:.4g}" if shared else "each layer's own direction"
    )
    touched = {name: sum(value != 0 for value in values) for name, values in strengths.items()}
    return Chart(
        "layer_profile",
        fig,
        f"W' = W - w·d(dᵀW) with {which}. w = 1 removes what a matrix writes along the direction, "
        "w > 1 reverses it, 0 leaves the matrix alone.",
        "Bar chart of the strength by layer: "
        + "; ".join(f"{name} edited in {n} of {count} layers" for name, n in touched.items()),
    )


def separation(run: Run) -> Chart:
    """How well good and bad prompts are told apart at each layer, and how directions lie."""
    layers = list(range(len(run.geometry["layer"])))
    lowest = min((value for value in run.geometry["silhouette"] if value is not None), default=0.0)
    panels = {
        "Score": {"range": [min(0.0, lowest) - 0.05, 1.05]},
        "Cosine": {"range": [-1.05, 1.05]},
    }
    title = "Where good and bad prompts part"
    fig = figure(title, "Residual stream after layer (0 = embeddings)", panels, 560)
    fig.update_xaxes(whole_layers(len(layers)))
    _add_panel(fig, run, "y", SCORES)
    _add_panel(fig, run, "y2", COSINES)
    fig.add_scatter(
        x=[-0.6, len(layers) - 0.4], y=[0.5, 0.5], mode="lines", name="AUROC of chance",
        hoverinfo="skip", line={"color": GREY, "dash": "dot", "width": 1.5},
    )  # fmt: skip
    best = separating_layer(run.geometry)
    auroc = run.geometry["auroc"][best]
    lows = [layer for layer in layers if (run.geometry["auroc"][layer] or 0.0) < WEAK_AUROC]
    weak = f" AUROC below {WEAK_AUROC} at layers {spans(lows)}." if lows else ""
    return Chart(
        "separation",
        fig,
        "AUROC: how often a bad prompt lies further along a direction than a good one, each half "
        "of the prompts judged by the other half's direction. Silhouette (-1 to 1): how compact "
        "and how far apart the two clouds are. Explained variance: share of the total variance "
        "along the direction d; cosines are those of the clouds' means. These are taken on the "
        "prompts that gave the direction." + weak,
        f"Lines by layer; layer {best} separates best"
        + (f", with AUROC {auroc:.3f}." if auroc is not None else "."),
    )


def _add_panel(fig: go.Figure, run: Run, axis: str, lines: Sequence[Line]) -> None:
    """Lines of geometry.csv in one panel: (column, name, colour, dash, symbol) each."""
    for column, name, colour, dash, symbol in lines:
        fig.add_scatter(
            x=list(range(len(run.geometry[column]))), y=list(run.geometry[column]), name=name,
            yaxis=axis, mode="lines+markers", connectgaps=False,
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 7, "maxdisplayed": MOST_MARKERS},
        )  # fmt: skip


def spans(numbers: Sequence[int]) -> str:
    """Rising whole numbers with neighbours joined: 0-2, 5."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)


def clouds(plane: Projection) -> Chart:
    """Good and bad residuals of one layer in their first two principal components."""
    title = f"Residuals after layer {plane.layer}, projected"
    first, second = (percent(share) for share in plane.variance)
    label = f"Second component ({second} of variance)"
    fig = figure(title, f"First component ({first} of variance)", {label: {}}, 460)
    for points, name, symbol, colour in (
        (plane.good, "good prompts", "circle-open", BLUE),
        (plane.bad, "bad prompts", "triangle-up", ORANGE),
    ):
        x, y = zip(*points, strict=True)
        fig.add_scatter(
            x=list(x), y=list(y), mode="markers", name=name, hoverinfo="name",
            marker={"symbol": symbol, "color": colour, "size": 8},
        )  # fmt: skip
    (x0, y0), (x1, y1) = plane.arrow
    fig.add_scatter(
        x=[x0, x1], y=[y0, y1], mode="lines", name="direction", hoverinfo="name",
        line={"color": GREY, "width": 2.5},
    )  # fmt: skip
    fig.add_scatter(
        x=[x1], y=[y1], mode="markers", name="direction", hoverinfo="name", showlegend=False,
        marker={"symbol": "diamond", "color": GREY, "size": 10},
    )  # fmt: skip
    return Chart(
        "projection",
        fig,
        f"Layer {plane.layer} separates best. The line runs from the middle of the good cloud "
        "along this layer's direction, as far as the two means lie apart along it; the plane "
        f"holds {percent(plane.in_plane)} of the direction's length.",
        f"Scatter plot of {len(plane.good)} good and {len(plane.bad)} bad prompts in the first "
        f"two principal components, which hold {first} and {second} of the variance.",
    )

"""Charts and their common style: mid-tone colors that are legible on light and dark pages.

Every series has its own marker, dash or pattern, so that no information depends on color alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PURPLE, GREY = "#3f86cf", "#d9772b", "#2f9e73", "#a06cc8", "#8a8a8a"
GRID = "rgba(138, 138, 138, 0.25)"
STAR = {"symbol": "star", "color": ORANGE, "size": 17}
DIAMOND = {"symbol": "diamond", "color": GREEN, "size": 11}
CROSS = {"symbol": "x-thin-open", "color": PURPLE, "size": 9, "line": {"width": 2}}
# nats; a logarithmic axis has no zero, and weights that overflow have no KL: such values are drawn
# at the edges of the axis.
SMALLEST_KL, LARGEST_KL = 1e-4, 20.0
GAP = 0.1  # total gap between stacked panels, as a share of the height
STATES = "State (0 = embeddings, n = after layer n - 1)"
Line = tuple[str, str, str, str, str]  # column, name, color, dash, symbol
MOST_MARKERS = 16  # per line, so that it does not become a band for deep models


@dataclass(frozen=True)
class Chart:
    """A figure with its file name, caption and alternative text."""

    name: str
    figure: go.Figure
    caption: str
    alt: str
    wide: bool = False  # scrolled instead of shrunk on a narrow screen

    @property
    def title(self) -> str:
        """The figure's title."""
        return str(self.figure.layout.title.text)


def figure(title: str, x: str, panels: Mapping[str, Mapping[str, Any]], height: int) -> go.Figure:
    """Return an empty figure with one panel per y axis title, stacked over one x axis.

    Each panel's mapping holds additional plotly options of its y axis.
    """
    gap = GAP / max(1, len(panels) - 1)
    share = (1 - gap * (len(panels) - 1)) / len(panels)
    layout: dict[str, Any] = {}
    for row, (label, options) in enumerate(panels.items()):
        end = 1 - row * (share + gap)
        start = max(0.0, end - share)
        layout[f"yaxis{_suffix(row)}"] = {**_axis(label), "domain": [start, end], **options}
    bottom = _suffix(len(panels) - 1)
    layout["xaxis"] = {**_axis(x), "anchor": f"y{bottom}", "domain": [0, 1]}
    return bare_figure(title, height).update_layout(layout)


def bare_figure(title: str, height: int) -> go.Figure:
    """Return an empty figure without axes."""
    layout = {
        "template": "none",
        "title": {"text": title},
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY, "size": 13, "family": "system-ui, sans-serif"},
        "margin": {"l": 64, "r": 14, "t": 16, "b": 52},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left"},
    }
    return go.Figure(layout=layout)


def _suffix(row: int) -> str:
    return "" if row == 0 else str(row + 1)


def _axis(label: str) -> dict[str, Any]:
    return {
        "title": {"text": label, "standoff": 10},
        "gridcolor": GRID,
        "linecolor": GREY,
        "tickcolor": GREY,
        "showline": True,
        "zeroline": False,
        "automargin": True,
    }


def whole_layers(count: int) -> dict[str, Any]:
    """Return options of an axis over `count` layers: integer ticks, at most about 16."""
    return {"dtick": max(1, round(count / 16)), "tick0": 0, "range": [-0.6, count - 0.4]}


def layer_figure(
    title: str, panels: Mapping[str, Mapping[str, Any]], states: int, height: int
) -> go.Figure:
    """Return an empty figure of panels over the states of the residual stream."""
    fig = figure(title, STATES, panels, height)
    return fig.update_xaxes(whole_layers(states))


def add_lines(
    fig: go.Figure, table: Mapping[str, Sequence[float | None]], axis: str, lines: Sequence[Line]
) -> None:
    """Add columns of a table by layer as lines of one panel, with gaps for missing values."""
    for column, name, color, dash, symbol in lines:
        fig.add_scatter(
            x=list(range(len(table[column]))), y=list(table[column]), name=name,
            yaxis=axis, mode="lines+markers", connectgaps=False,
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 7, "maxdisplayed": MOST_MARKERS},
        )  # fmt: skip


def add_level(fig: go.Figure, states: int, level: float, name: str, axis: str = "y") -> None:
    """Add a dotted gray reference line across all layers."""
    fig.add_scatter(
        x=[-0.6, states - 0.4], y=[level, level], mode="lines", name=name, yaxis=axis,
        hoverinfo="skip", line={"color": GREY, "dash": "dot", "width": 1.5},
    )  # fmt: skip


def kl_axis(values: list[float]) -> dict[str, Any]:
    """Return options of a logarithmic KL axis for `values`, with a margin at both ends."""
    shown = [on_log_axis(value) for value in values] or [SMALLEST_KL, 1.0]
    low, high = math.log10(min(shown)), math.log10(max(shown))
    room = max(0.1, 0.06 * (high - low))
    return {
        "type": "log",
        "range": [low - room, high + room],
        "exponentformat": "none",
        "dtick": 1 if high - low > 1.5 else "D2",  # D2: also 2 and 5 between powers of ten
    }


def count_axis(total: int, above: float = 0.05) -> dict[str, Any]:
    """Return options of an axis from 0 to `total`, ticks up to `total`, and margins."""
    rough = max(1.0, total / 6)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    ticks = list(range(0, total + 1, int(step)))
    return {"range": [-0.05 * total, (1 + above) * total], "tickvals": ticks}


def on_log_axis(value: float) -> float:
    """Return the position of a KL divergence: its value, or the nearer edge."""
    return min(max(value, SMALLEST_KL), LARGEST_KL)

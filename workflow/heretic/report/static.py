"""Draws the report's plotly figures with matplotlib, so that files need no browser.

Understands what `figures` uses: scatter traces (lines, markers), grouped bars, stacked panels over
one x axis, linear and logarithmic axes. Anything else is an error rather than a wrong picture.
"""

import re
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from heretic.artifacts import replacing
from heretic.report.chart import GREY

WIDTH, TOP, BOTTOM, LEFT, RIGHT = 7.5, 0.9, 0.6, 0.8, 0.2  # inches
PIXELS_PER_INCH = 100  # of plotly's heights
PNG_DPI = 160
SYMBOLS = {
    "circle": "o", "circle-open": "o", "square": "s", "diamond": "D", "star": "*", "x": "X",
    "x-thin-open": "x", "triangle-up": "^", "triangle-down": "v",
}  # fmt: skip
DASHES = {None: "-", "solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
HATCHES = {None: "", "": "", "/": "//", "x": "xx", ".": ".."}
STEPS = {None: "default", "linear": "default", "hv": "steps-post"}


def save_static(figure: go.Figure, name: str, folder: Path) -> tuple[Path, Path]:
    """Write `folder/name.svg` and `folder/name.png`; the same figure gives the same bytes."""
    drawn = draw(figure)
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    with matplotlib.rc_context({"svg.hashsalt": name}), replacing(svg) as beside:
        drawn.savefig(beside, format="svg", transparent=True, metadata={"Date": None})
    with replacing(png) as beside:
        drawn.savefig(
            beside, format="png", transparent=True, dpi=PNG_DPI, metadata={"Software": None}
        )
    return svg, png


def draw(figure: go.Figure) -> Figure:
    """The same picture as a matplotlib figure.

    Raises:
        NotImplementedError: the figure holds a kind of trace that is not understood.
    """
    layout = figure.layout
    height = layout.height / PIXELS_PER_INCH + TOP
    drawn = Figure(figsize=(WIDTH, height))
    panels = _panels(figure, drawn, height)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    for order, trace in enumerate(figure.data):
        axes = panels[trace.yaxis or "y"]
        if trace.type == "scatter":
            _draw_scatter(axes, trace, order)
        elif trace.type == "bar":
            _draw_bars(axes, trace, bars.index(trace), len(bars))
        else:
            raise NotImplementedError(f"cannot draw a trace of type {trace.type!r}")
    drawn.suptitle(
        layout.title.text, x=LEFT / WIDTH, y=1 - 0.1 / height, ha="left", va="top", color=GREY,
        fontsize=12,
    )  # fmt: skip
    _add_legend(drawn, panels.values(), height)
    return drawn


def _panels(figure: go.Figure, drawn: Figure, height: float) -> dict[str, Axes]:
    """Matplotlib axes by plotly's short name of their y axis, placed by its domain."""
    layout = figure.layout
    plot = height - TOP - BOTTOM
    names = sorted(key for key in layout.to_plotly_json() if re.fullmatch(r"yaxis\d*", key))
    panels: dict[str, Axes] = {}
    for name in names:
        start, end = layout[name].domain or (0, 1)
        place = (LEFT, BOTTOM + start * plot, WIDTH - LEFT - RIGHT, (end - start) * plot)
        ratio = (place[0] / WIDTH, place[1] / height, place[2] / WIDTH, place[3] / height)
        axes = drawn.add_axes(ratio)
        _style(axes)
        _set_scale(axes, "y", layout[name])
        _set_scale(axes, "x", layout.xaxis)
        lowest = name.replace("axis", "") == (layout.xaxis.anchor or "y")
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel(layout.xaxis.title.text if lowest else "", color=GREY)
        axes.set_ylabel(layout[name].title.text, color=GREY)
        panels[name.replace("axis", "")] = axes
    return panels


def _style(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)


def _set_scale(axes: Axes, letter: str, axis: Any) -> None:
    """Scale and range; plotly gives the range of a logarithmic axis as powers of ten."""
    logarithmic = axis.type == "log"
    axes.set(**{f"{letter}scale": "log" if logarithmic else "linear"})
    if axis.range is not None:
        ends = [10**end if logarithmic else end for end in axis.range]
        axes.set(**{f"{letter}lim": ends})
    if logarithmic:
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        (axes.xaxis if letter == "x" else axes.yaxis).set_major_formatter(plain)
    elif axis.tickvals is not None:
        axes.set(**{f"{letter}ticks": list(axis.tickvals)})
    elif axis.dtick is not None:
        axes.set(**{f"{letter}ticks": range(0, int(axis.range[1]) + 1, int(axis.dtick))})


def _draw_scatter(axes: Axes, trace: Any, order: int) -> None:
    """Lines, markers or both; gaps where a value is missing."""
    x = [float("nan") if value is None else value for value in trace.x]
    y = [float("nan") if value is None else value for value in trace.y]
    lines, markers = "lines" in trace.mode, "markers" in trace.mode
    colour = trace.line.color or trace.marker.color
    symbol = trace.marker.symbol
    axes.plot(
        x,
        y,
        label=trace.name if trace.showlegend is not False else None,
        color=colour,
        linestyle=DASHES[trace.line.dash] if lines else "none",
        linewidth=trace.line.width or 1.5,
        drawstyle=STEPS[trace.line.shape],
        marker=SYMBOLS[symbol or "circle"] if markers else "",
        markevery=ceil(len(x) / trace.marker.maxdisplayed) if trace.marker.maxdisplayed else None,
        markersize=0.72 * (trace.marker.size or 8),
        markerfacecolor="none" if symbol and symbol.endswith("open") else colour,
        zorder=2 + 0.01 * order,
    )


def _draw_bars(axes: Axes, trace: Any, place: int, of: int) -> None:
    """One trace of grouped bars, beside those of the others."""
    width = 0.7 / of
    shift = (place - (of - 1) / 2) * width
    hatch = HATCHES[trace.marker.pattern.shape]
    axes.bar(
        [x + shift for x in trace.x],
        trace.y,
        width,
        label=trace.name,
        facecolor="none" if hatch else trace.marker.color,
        edgecolor=trace.marker.color,
        hatch=hatch,
    )


def _add_legend(drawn: Figure, panels: Iterable[Axes], height: float) -> None:
    """One legend for all panels between title and plot, each name once."""
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    drawn.legend(
        list(named.values()), list(named), loc="lower left", ncols=4, frameon=False,
        bbox_to_anchor=(LEFT / WIDTH, 1 - (TOP - 0.08) / height), labelcolor=GREY, fontsize=9,
        borderaxespad=0, borderpad=0,
    )  # fmt: skip

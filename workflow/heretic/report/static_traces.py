"""Drawing of single plotly traces with matplotlib: lines, markers, areas, text, bars and cells."""

from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from heretic.report.chart import GREY

SYMBOLS = {
    "circle": "o", "circle-open": "o", "square": "s", "diamond": "D", "star": "*", "x": "X",
    "x-thin-open": "x", "triangle-up": "^", "triangle-down": "v", "line-ew-open": "_",
}  # fmt: skip
DASHES = {None: "-", "solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
HATCHES = {None: "", "": "", "/": "//", "x": "xx", ".": ".."}
STEPS = {None: "default", "linear": "default", "hv": "steps-post"}
MODES = {"lines", "markers", "text"}
POINTS_PER_PIXEL = 0.72
# Numbers on strong colors are nearly black, others gray, since the page may be dark.
INK, STRONG = "#101214", 0.4


def draw_scatter(axes: Axes, trace: Any, order: int) -> None:
    """Draw lines, markers or both, over a filled area; or text. Missing values leave gaps.

    Raises:
        NotImplementedError: The trace has another mode, fill or symbol.
    """
    modes = set(trace.mode.split("+"))
    if not modes <= MODES or ("text" in modes and len(modes) > 1):
        raise NotImplementedError(f"cannot draw the mode {trace.mode!r}")
    if "text" in modes:
        _draw_texts(axes, trace)
        return
    symbol = trace.marker.symbol or "circle"
    if symbol not in SYMBOLS:
        raise NotImplementedError(f"cannot draw the symbol {symbol!r}")
    x, y = _numbers(trace.x), _numbers(trace.y)
    name = trace.name if trace.showlegend is not False else None
    if trace.fill not in (None, "none"):
        _fill(axes, trace, x, y, name)
        name = None
    lines, markers = "lines" in modes, "markers" in modes
    color = trace.line.color or trace.marker.color
    axes.plot(
        x,
        y,
        label=name,
        color=color,
        linestyle=DASHES[trace.line.dash] if lines else "none",
        linewidth=1.5 if trace.line.width is None else trace.line.width,
        drawstyle=STEPS[trace.line.shape],
        marker=SYMBOLS[symbol] if markers else "",
        markevery=ceil(len(x) / trace.marker.maxdisplayed) if trace.marker.maxdisplayed else None,
        markersize=POINTS_PER_PIXEL * (trace.marker.size or 8),
        markerfacecolor="none" if symbol.endswith("open") else color,
        zorder=2 + 0.01 * order,
    )


def _numbers(values: Any) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _fill(axes: Axes, trace: Any, x: list[float], y: list[float], name: str | None) -> None:
    """Fill every closed segment of a trace that is filled to itself."""
    if trace.fill != "toself":
        raise NotImplementedError(f"cannot draw the fill {trace.fill!r}")
    gaps = [place for place, value in enumerate(y) if value != value]
    for start, end in zip([0, *(gap + 1 for gap in gaps)], [*gaps, len(y)], strict=True):
        axes.fill(
            x[start:end], y[start:end], label=name, facecolor=_rgba(trace.fillcolor), zorder=1.5
        )
        name = None


def _draw_texts(axes: Axes, trace: Any) -> None:
    down, right = str(trace.textposition or "middle center").split()
    places = {"bottom": "top", "middle": "center", "top": "bottom"}
    sides = {"right": "left", "center": "center", "left": "right"}
    for x, y, text in zip(trace.x, trace.y, trace.text, strict=True):
        axes.text(
            x, y, text, va=places[down], ha=sides[right], color=trace.textfont.color or GREY,
            fontsize=POINTS_PER_PIXEL * (trace.textfont.size or 12),
        )  # fmt: skip


def _rgba(color: str) -> tuple[float, float, float, float]:
    """Convert a color name, #rrggbb or rgba(r, g, b, a) to four fractions."""
    if not color.startswith("rgba("):
        return to_rgba(color)
    red, green, blue, alpha = (float(part) for part in color[5:-1].split(","))
    return red / 255, green / 255, blue / 255, alpha


def draw_heatmap(axes: Axes, trace: Any, bar: Axes) -> None:
    """Draw cells centered on integers, with values if plotly shows them, and a color bar in `bar`.

    Raises:
        NotImplementedError: The trace has its own coordinates.
    """
    if trace.x is not None or trace.y is not None:
        raise NotImplementedError("cannot draw a heat map with its own coordinates")
    cells = np.array([_numbers(row) for row in trace.z])
    scale = [(place, _rgba(color)) for place, color in trace.colorscale]
    limits = axes.get_xlim(), axes.get_ylim(), axes.get_aspect()
    image = axes.imshow(
        cells, cmap=LinearSegmentedColormap.from_list("scale", scale), vmin=trace.zmin,
        vmax=trace.zmax, interpolation="nearest", zorder=1,
    )  # fmt: skip
    axes.set(xlim=limits[0], ylim=limits[1], aspect=limits[2])
    if trace.texttemplate:
        for (row, column), value in np.ndenumerate(cells):
            if value == value:
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center",
                    color=INK if abs(value) > STRONG else GREY,
                    fontsize=min(8.0, 75 / len(cells)),
                )  # fmt: skip
    ticks = trace.colorbar.tickvals
    shown = axes.figure.colorbar(image, cax=bar, orientation="horizontal", ticks=ticks)
    shown.outline.set_visible(False)
    bar.xaxis.set_ticks_position("top")
    bar.tick_params(colors=GREY, labelsize=8, length=2)


def draw_bars(axes: Axes, trace: Any, place: int, of: int) -> None:
    """Draw one trace of grouped bars, next to those of the others."""
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

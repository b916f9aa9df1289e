"""Drawing of the report's plotly figures with matplotlib, without a browser.

Supports the features used by the report's figures: the traces of `static_traces`, pies, stacked
panels over one x axis, linear and logarithmic axes, axes of equal scale, and the active step of a
slider. Anything else raises an error rather than producing a wrong picture.
"""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import matplotlib
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from heretic.artifacts import atomic_write
from heretic.report.chart import GREY
from heretic.report.static_traces import HATCHES, draw_bars, draw_heatmap, draw_scatter

ELBOW, MARGIN, GAP = 1.12, 1.3, 0.2  # in radii: of the leaders, of the labels, between two labels
WIDTH, TOP, BOTTOM, LEFT, RIGHT = 7.5, 0.9, 0.6, 0.8, 0.2  # inches
PIXELS_PER_INCH = 100  # of plotly's heights
PNG_DPI = 160
UNKNOWN = ("annotations", "images", "selections", "shapes", "updatemenus", "xaxis2")


def draw_pie(axes: Axes, trace: Any) -> None:
    """Draw slices clockwise from the top, each with its text at the end of a line.

    Raises:
        NotImplementedError: The slices are sorted or counterclockwise, or labels are elsewhere.
    """
    if trace.sort is not False or trace.direction != "clockwise":
        raise NotImplementedError("cannot draw a pie that is sorted or runs counterclockwise")
    if trace.textinfo != "text" or trace.textposition != "outside":
        raise NotImplementedError("cannot draw texts of a pie other than its own, outside")
    shapes = trace.marker.pattern.shape or [""] * len(trace.values)
    wedges, *_ = axes.pie(
        trace.values, colors=trace.marker.colors, startangle=90, counterclock=False, radius=1.0
    )
    for wedge, shape in zip(wedges, shapes, strict=True):
        if shape:
            wedge.set(facecolor="none", edgecolor=wedge.get_facecolor(), hatch=HATCHES[shape])
    axes.set(xlim=(-3.2, 3.2), ylim=(-1.45, 1.75), aspect="equal")
    ends = list(accumulate(trace.values, initial=0.0))
    middles = [math.pi * (start + end) / ends[-1] for start, end in pairwise(ends)]
    for right in (True, False):
        side = [i for i, angle in enumerate(middles) if (math.sin(angle) >= 0) == right]
        side.sort(key=lambda i: math.cos(middles[i]))
        heights = spread([math.cos(middles[i]) * ELBOW for i in side], GAP)
        for i, height in zip(side, heights, strict=True):
            _label(axes, trace.text[i], middles[i], height, 1 if right else -1)


def _label(axes: Axes, text: str, angle: float, height: float, sign: int) -> None:
    edge = (math.sin(angle), math.cos(angle))
    xs = [edge[0], ELBOW * edge[0], sign * (MARGIN - 0.05)]
    axes.plot(xs, [edge[1], ELBOW * edge[1], height], color=GREY, linewidth=0.8, clip_on=False)
    axes.text(
        sign * MARGIN, height, text, va="center", ha="left" if sign > 0 else "right", color=GREY,
        fontsize=9,
    )  # fmt: skip


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return ascending positions at least `gap` apart, near the ascending ones in `wanted`.

    Positions that are too close are spread around their center.
    """
    groups: list[list[float]] = []  # of wanted positions that have to share space
    for place in wanted:
        groups.append([place])
        while len(groups) > 1 and _start(groups[-1], gap) < _end(groups[-2], gap) + gap:
            last = groups.pop()
            groups[-1] += last
    return [_start(group, gap) + gap * step for group in groups for step in range(len(group))]


def _start(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _end(group: Sequence[float], gap: float) -> float:
    return _start(group, gap) + gap * (len(group) - 1)


def save_static(figure: go.Figure, name: str, folder: Path) -> tuple[Path, Path]:
    """Write `folder/name.svg` and `folder/name.png`, deterministically."""
    drawn = draw(figure)
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    with matplotlib.rc_context({"svg.hashsalt": name}), atomic_write(svg) as beside:
        drawn.savefig(beside, format="svg", transparent=True, metadata={"Date": None})
    with atomic_write(png) as beside:
        drawn.savefig(
            beside, format="png", transparent=True, dpi=PNG_DPI, metadata={"Software": None}
        )
    return svg, png


def draw(figure: go.Figure) -> Figure:
    """Return the same picture as a matplotlib figure.

    Raises:
        NotImplementedError: The figure uses an unsupported kind of trace or feature.
    """
    layout = figure.layout
    for part in UNKNOWN:
        if part in layout.to_plotly_json():
            raise NotImplementedError(f"cannot draw {part}")
    height = _height(layout)
    drawn = Figure(figsize=(WIDTH, height))
    panels = _panels(figure, drawn, height)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    for order, trace in enumerate(figure.data):
        if trace.type == "scatter":
            draw_scatter(panels[trace.yaxis or "y"], trace, order)
        elif trace.type == "bar":
            draw_bars(panels[trace.yaxis or "y"], trace, bars.index(trace), len(bars))
        elif trace.type == "heatmap":
            across = (WIDTH - LEFT - RIGHT) / WIDTH
            bar = (LEFT / WIDTH, 1 - (TOP - 0.15) / height, 0.4 * across, 0.1 / height)
            draw_heatmap(panels[trace.yaxis or "y"], trace, drawn.add_axes(bar))
        elif trace.type == "pie":
            plot = (height - TOP - BOTTOM) / height
            draw_pie(drawn.add_axes((0, BOTTOM / height, 1, plot)), trace)
        else:
            raise NotImplementedError(f"cannot draw a trace of type {trace.type!r}")
    drawn.suptitle(
        _title(layout), x=LEFT / WIDTH, y=1 - 0.1 / height, ha="left", va="top", color=GREY,
        fontsize=12,
    )  # fmt: skip
    _add_legend(drawn, panels.values(), height)
    return drawn


def _height(layout: Any) -> float:
    """Return the height in inches; for boxed axes of equal scale, at most that of the box."""
    height = float(layout.height) / PIXELS_PER_INCH + TOP
    if layout.yaxis.constrain != "domain":
        return height
    (left, right), (low, high) = layout.xaxis.range, layout.yaxis.range
    box = (WIDTH - LEFT - RIGHT) * abs(float(high - low) / float(right - left))
    return min(height, box + TOP + BOTTOM)


def _title(layout: Any) -> str:
    """Return the figure's title, with the drawn step of a slider."""
    title = str(layout.title.text)
    for slider in layout.sliders:
        step = slider.steps[slider.active or 0]
        title += f": {str(slider.currentvalue.prefix).lower()}{step.label}"
    return title


def _panels(figure: go.Figure, drawn: Figure, height: float) -> dict[str, Axes]:
    """Return matplotlib axes by plotly's short name of their y axis, placed by its domain."""
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
        _set_aspect(axes, layout[name])
        if layout[name].visible is False:
            axes.set_axis_off()
        panels[name.replace("axis", "")] = axes
    return panels


def _set_aspect(axes: Axes, axis: Any) -> None:
    """Set equal scales as in plotly, by a smaller box or by extended limits."""
    if axis.scaleanchor is not None:
        boxed = axis.constrain == "domain"
        axes.set_aspect("equal", adjustable="box" if boxed else "datalim", anchor="NW")
    if axis.showgrid is False:
        axes.grid(False)


def _style(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)


def _set_scale(axes: Axes, letter: str, axis: Any) -> None:
    """Set scale and range; plotly gives the range of a logarithmic axis as powers of ten."""
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
        axes.set(**{f"{letter}ticks": range(0, int(max(axis.range)) + 1, int(axis.dtick))})


def _add_legend(drawn: Figure, panels: Iterable[Axes], height: float) -> None:
    """Add one legend for all panels between title and plot, with each name once."""
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    if not named:
        return
    drawn.legend(
        list(named.values()), list(named), loc="lower left", ncols=4, frameon=False,
        bbox_to_anchor=(LEFT / WIDTH, 1 - (TOP - 0.08) / height), labelcolor=GREY, fontsize=9,
        borderaxespad=0, borderpad=0,
    )  # fmt: skip

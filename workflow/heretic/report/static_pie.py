"""Drawing of a plotly pie with matplotlib, with labels on both sides."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from matplotlib.axes import Axes

from heretic.report.chart import GREY
from heretic.report.static_traces import HATCHES

ELBOW, MARGIN, GAP = 1.12, 1.3, 0.2  # in radii: of the leaders, of the labels, between two labels


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

"""Scatter plots of good and bad residuals: one layer at a time, and all layers side by side."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from heretic.evaluation.number_format import percent
from heretic.report.chart import BLUE, GREY, ORANGE, Chart, figure
from heretic.report.geometry import Geometry, separating_layer
from heretic.report.projection import Plane, Point
from heretic.report.states import evenly

MOST_POINTS = 200  # per class and layer; more would only increase the file size
ALL_PANELS_POINTS = 4000  # per class, over all panels
CELL = 1.0  # side of a small panel; clouds fill REACH of its half
REACH = 0.42
GOOD = {"symbol": "circle-open", "color": BLUE}
BAD = {"symbol": "triangle-up", "color": ORANGE}
NONLINEAR = (
    "PaCMAP preserves neighborhoods but is nonlinear: axes have no unit, distances between clouds "
    "are not meaningful, and the direction is not a line."
)


def one_layer(planes: Sequence[Plane], geometry: Geometry) -> Chart:
    """Plot the clouds of the layer selected by a slider, initially the most separating one."""
    best = separating_layer(geometry)
    drawn = [_Drawn(plane, MOST_POINTS) for plane in planes]
    chosen = drawn[best]
    fig = figure("Residuals, projected", chosen.titles[0], {chosen.titles[1]: {}}, 540)
    fig.update_yaxes(scaleanchor="x")
    for series in chosen.series():
        fig.add_scatter(**series)
    fig.update_layout(sliders=[_slider(drawn, best)])
    plane = planes[best]
    return Chart(
        "projection",
        fig,
        f"At {_token(geometry)}; the slider selects the state; {best} separates best. "
        + _about(plane) + _sampled(plane),
        f"Scatter plot of {len(plane.good)} good and {len(plane.bad)} bad prompts "
        + _axes_in_words(plane) + ", with a slider over the states; the arrow keys move it too.",
    )  # fmt: skip


def _token(geometry: Geometry) -> str:
    place = geometry["position"][-1]
    return "the last prompt token" if place in (-1, None) else f"prompt token {place:.0f}"


def _about(plane: Plane) -> str:
    if plane.arrow is None:
        return NONLINEAR
    return (
        "The line starts at the center of the good cloud and follows the state's direction, with "
        "the distance of the two means along it; the legend shows the share of the direction's "
        "length within the plane."
    )


def _sampled(plane: Plane) -> str:
    most = max(len(plane.good), len(plane.bad))
    return f" {MOST_POINTS} points of each set are shown." if most > MOST_POINTS else ""


def _axes_in_words(plane: Plane) -> str:
    if plane.variance is None:
        return "in two PaCMAP dimensions"
    first, second = (percent(share) for share in plane.variance)
    return f"in two principal components, with {first} and {second} of the variance"


@dataclass(frozen=True)
class _Drawn:
    """A plane as drawn: subsampled and rounded."""

    plane: Plane
    most: int

    @property
    def titles(self) -> tuple[str, str]:
        """Titles of both axes."""
        if self.plane.variance is None:
            return "PaCMAP 1", "PaCMAP 2"
        first, second = (percent(share) for share in self.plane.variance)
        return f"First component ({first} of variance)", f"Second component ({second})"

    def series(self) -> Iterator[dict[str, Any]]:
        """Yield options of plotly's traces: both clouds, and the direction's line and its end."""
        yield self._series("good prompts", self._thinned(self.plane.good), "markers", GOOD, 8)
        yield self._series("bad prompts", self._thinned(self.plane.bad), "markers", BAD, 8)
        arrow = self.plane.arrow
        if arrow is None:
            return
        name = f"direction ({percent(arrow.in_plane)} in the plane)"
        yield {
            **self._series(name, [arrow.start, arrow.end], "lines", {}, None),
            "line": {"color": GREY, "width": 2.5},
        }
        end = {"symbol": "diamond", "color": GREY}
        yield {**self._series(name, [arrow.end], "markers", end, 10), "showlegend": False}

    @cached_property
    def _digits(self) -> int:
        """Decimals that resolve a thousandth of the clouds; more would only enlarge the file."""
        size = max(abs(value) for point in self.plane.good + self.plane.bad for value in point)
        return 3 - math.floor(math.log10(size)) if size > 0 else 3

    def _thinned(self, points: Sequence[Point]) -> list[Point]:
        return [points[place] for place in evenly(len(points), self.most)]

    def _series(
        self, name: str, points: Sequence[Point], mode: str, marker: dict[str, Any], size: Any
    ) -> dict[str, Any]:
        return {
            "x": [round(x, self._digits) for x, _ in points],
            "y": [round(y, self._digits) for _, y in points],
            "mode": mode, "name": name, "hoverinfo": "name",
            **({"marker": {**marker, "size": size}} if marker else {}),
        }  # fmt: skip


def _slider(drawn: Sequence[_Drawn], active: int) -> dict[str, Any]:
    """Return plotly's slider: each step sets the points, names and titles of a layer."""
    return {
        "active": active,
        "currentvalue": {"prefix": "State ", "xanchor": "left"},
        "pad": {"t": 56, "b": 8},
        "bgcolor": "rgba(138, 138, 138, 0.25)",
        "activebgcolor": BLUE,
        "bordercolor": GREY,
        "tickcolor": GREY,
        "steps": [
            {"label": str(one.plane.layer), "method": "update", "args": _step(one)} for one in drawn
        ],
    }


def _step(one: _Drawn) -> list[Any]:
    series = list(one.series())
    data = {key: [part[key] for part in series] for key in ("x", "y", "name")}
    first, second = one.titles
    layout = {
        "xaxis.title.text": first, "yaxis.title.text": second,
        "xaxis.autorange": True, "yaxis.autorange": True,
    }  # fmt: skip
    return [data, layout, list(range(len(series)))]


def all_layers(planes: Sequence[Plane], geometry: Geometry) -> Chart:
    """Plot a small panel for every layer, row by row, in the cells of one pair of axes."""
    columns = _columns(len(planes))
    rows = math.ceil(len(planes) / columns)
    bare = {"visible": False, "showgrid": False}
    height = 40 + rows * round(980 / columns)
    fig = figure("Residuals at every state", "", {"": {**bare, "range": [-rows, 0]}}, height)
    fig.update_xaxes(**bare, range=[0, columns], constrain="domain", constraintoward="left")
    fig.update_yaxes(scaleanchor="x", constrain="domain", constraintoward="top")
    fig.update_layout(margin={"l": 8, "r": 8, "t": 16, "b": 8}, dragmode=False)
    size = 4 if columns > 4 else 5
    panels = [_Panel(plane, index, columns) for index, plane in enumerate(planes)]
    most = min(MOST_POINTS, max(50, ALL_PANELS_POINTS // len(planes)))
    fig.add_scatter(
        **_joined(panel.frame for panel in panels), mode="lines", name="frame", showlegend=False,
        hoverinfo="skip", line={"color": GREY, "width": 0.7},
    )  # fmt: skip
    for name, marker in (("good", GOOD), ("bad", BAD)):
        clouds = [panel.cloud(name, most) for panel in panels]
        fig.add_scatter(
            x=[x for cloud in clouds for x, _ in cloud],
            y=[y for cloud in clouds for _, y in cloud],
            mode="markers", name=f"{name} prompts", hoverinfo="skip",
            marker={**marker, "size": size},
        )  # fmt: skip
    if planes[0].arrow is not None:
        fig.add_scatter(
            **_joined(panel.line for panel in panels), mode="lines", name="direction",
            hoverinfo="skip", line={"color": GREY, "width": 2},
        )  # fmt: skip
    fig.add_scatter(
        x=[panel.label[0] for panel in panels], y=[panel.label[1] for panel in panels],
        mode="text", text=[str(plane.layer) for plane in planes], name="layer", showlegend=False,
        hoverinfo="skip", textposition="bottom right", textfont={"color": GREY, "size": 11},
    )  # fmt: skip
    best = separating_layer(geometry)
    kind = "PaCMAP dimensions" if planes[0].variance is None else "principal components"
    return Chart(
        "layers",
        fig,
        f"The two {kind} of each state, starting with 0, the embeddings; each panel has its own "
        f"scale, equal on both axes. State {best} separates best.",
        f"{len(planes)} small scatter plots of good and bad prompts, one per state.",
        wide=len(planes) > 8,
    )


def _columns(panels: int) -> int:
    """Return a number that keeps panels legible and deep models on one or two pages."""
    return min(panels, 4) if panels <= 8 else 6 if panels <= 18 else 8


def _joined(lines: Iterable[Sequence[Point]]) -> dict[str, list[float | None]]:
    """Join lines into one, with gaps in between."""
    x: list[float | None] = []
    y: list[float | None] = []
    for line in lines:
        x += [*(place for place, _ in line), None]
        y += [*(place for _, place in line), None]
    return {"x": x[:-1], "y": y[:-1]}


@dataclass(frozen=True)
class _Panel:
    """A plane moved into its cell, scaled to fill it and centered."""

    plane: Plane
    index: int
    columns: int

    @property
    def corner(self) -> Point:
        """The upper left corner of the cell."""
        return (self.index % self.columns) * CELL, -(self.index // self.columns) * CELL

    @property
    def frame(self) -> tuple[Point, ...]:
        """A closed line slightly inside the cell."""
        x, y = self.corner
        low, high = 0.04, 0.96
        return (
            (x + low, y - low), (x + high, y - low), (x + high, y - high), (x + low, y - high),
            (x + low, y - low),
        )  # fmt: skip

    @property
    def label(self) -> Point:
        """Position of the layer's number."""
        x, y = self.corner
        return x + 0.06, y - 0.05

    @property
    def line(self) -> list[Point]:
        """The line of the direction."""
        arrow = self.plane.arrow
        return [self._place(arrow.start), self._place(arrow.end)] if arrow else []

    def cloud(self, name: str, most: int) -> list[Point]:
        """Return at most `most` points of the good or the bad cloud."""
        points = self.plane.good if name == "good" else self.plane.bad
        return [self._place(points[place]) for place in evenly(len(points), most)]

    def _place(self, point: Point) -> Point:
        (x, y), (across, up) = self.corner, self._middle
        scale = REACH * CELL / self._half
        return (
            round(x + CELL / 2 + (point[0] - across) * scale, 3),
            round(y - CELL / 2 + (point[1] - up) * scale, 3),
        )

    @cached_property
    def _ends(self) -> list[tuple[float, float]]:
        """Smallest and largest coordinate on both axes."""
        points = self.plane.good + self.plane.bad
        if self.plane.arrow:
            points += (self.plane.arrow.start, self.plane.arrow.end)
        return [(min(axis), max(axis)) for axis in zip(*points, strict=True)]

    @cached_property
    def _middle(self) -> Point:
        (left, right), (low, high) = self._ends
        return (left + right) / 2, (low + high) / 2

    @cached_property
    def _half(self) -> float:
        return max(high - low for low, high in self._ends) / 2 or 1.0

"""Each figure, defined once: what must be in it, in plotly and in matplotlib."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib import colors

from heretic.report.chart import Chart, count_axis, kl_axis
from heretic.report.layer_figures import separation
from heretic.report.page import draw_all
from heretic.report.run_reader import Run
from heretic.report.search_figures import pareto
from heretic.report.static import draw
from report.conftest import trace


def test_pareto_shows_every_trial_once(charts: dict[str, Chart], run: Run) -> None:
    chart = charts["pareto"]
    plain, front = trace(chart, "trial"), trace(chart, "on the front")
    cross = trace(chart, "infeasible (not evaluated further)")
    assert len(plain.x) + len(front.x) + len(cross.x) == len(run.trials)
    assert len({plain.marker.symbol, front.marker.symbol, cross.marker.symbol}) == 3
    star = trace(chart, "chosen")
    assert (list(star.x), list(star.y), star.marker.symbol) == ([0.0211], [1], "star")
    assert "Trial 17" in star.text[0]
    assert "attn_weight: 1.23" in star.text[0]


def test_pareto_front_is_a_staircase_down(charts: dict[str, Chart]) -> None:
    line = trace(charts["pareto"], "Pareto front")
    assert line.line.shape == "hv"
    assert list(line.x) == sorted(line.x)
    assert list(line.y) == sorted(line.y, reverse=True)


def test_overflowed_trials_do_not_stretch_the_axis(charts: dict[str, Chart]) -> None:
    chart = charts["pareto"]
    assert max(trace(chart, "infeasible (not evaluated further)").x) == 20.0
    assert chart.figure.layout.xaxis.range[1] < 2


def test_infeasible_trials_lie_above_the_scale(charts: dict[str, Chart]) -> None:
    axis = charts["pareto"].figure.layout.yaxis
    height = set(trace(charts["pareto"], "infeasible (not evaluated further)").y)
    assert max(axis.tickvals) <= 64 < min(height) <= max(height) < axis.range[1]


def test_a_search_without_feasible_neighbours_still_draws(run: Run) -> None:
    chart = pareto(replace(run, trials=(run.chosen(),)))
    assert [t.name for t in chart.figure.data if t.mode == "markers" and len(t.x)][-1] == "chosen"


def test_history_falls_and_never_rises(charts: dict[str, Chart]) -> None:
    for axis in ("y", "y2"):
        lowest = list(trace(charts["history"], "best so far", axis).y)
        values = list(trace(charts["history"], "trial", axis).y)
        assert lowest == sorted(lowest, reverse=True)
        assert lowest[-1] == min(values)
        assert lowest[0] == values[0]


def test_profile_draws_each_component(charts: dict[str, Chart], run: Run) -> None:
    bars = {bar.name: bar for bar in charts["layer_profile"].figure.data}
    assert {name: list(bar.y) for name, bar in bars.items()} == run.best.strengths
    assert bars["attn.o_proj"].marker.pattern.shape != bars["mlp.down_proj"].marker.pattern.shape
    assert "each layer's own direction" in charts["layer_profile"].caption


def test_profile_tells_a_shared_direction(run: Run) -> None:
    best = replace(run.best, directions={"scope": "global", "index": 2.4})
    chart = {c.name: c for c in draw_all(replace(run, best=best))}["layer_profile"]
    assert "the direction at index 2.4" in chart.caption


def test_profile_draws_embeddings_before_the_first_layer(run: Run) -> None:
    strengths = {**run.best.strengths, "embed": [0.7]}
    best = replace(run.best, strengths=strengths)
    chart = {c.name: c for c in draw_all(replace(run, best=best))}["layer_profile"]
    bar = trace(chart, "embed")
    assert (list(bar.x), list(bar.y)) == ([-1], [0.7])
    axes = draw(chart.figure).axes[0]
    assert axes.get_xlim()[0] < -1.3
    assert axes.get_xlabel() == "Decoder layer (0 = first, -1 = embeddings)"
    assert chart.alt.endswith("; embed edited")


def test_deep_models_thin_the_markers_in_both_drawings(run: Run) -> None:
    deep = {name: values * 11 for name, values in run.geometry.items()}
    chart = separation(replace(run, geometry=deep))
    assert trace(chart, "AUROC").marker.maxdisplayed == 16
    lines = {line.get_label(): line for line in draw(chart.figure).axes[0].lines}
    assert lines["AUROC"].get_markevery() == 5


def test_every_axis_is_labelled_and_every_chart_described(charts: dict[str, Chart]) -> None:
    for chart in charts.values():
        layout = chart.figure.layout
        axes = [layout[key] for key in layout.to_plotly_json() if key[1:5] == "axis"]
        assert len(axes) >= (0 if chart.name == "stages" else 2)
        assert all(axis.title.text for axis in axes if axis.visible is not False)
        assert layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert chart.title
        assert chart.caption
        assert chart.alt


def test_colours_read_on_light_and_on_dark(charts: dict[str, Chart]) -> None:
    """Contrast of 2.5 at least with both papers."""
    used = set()
    for chart in charts.values():
        for t in chart.figure.data:
            if t.type != "heatmap":
                line = t.line.color if t.type == "scatter" else None
                marks = t.marker.colors if t.type == "pie" else (t.marker.color,)
                used |= {color for color in (line, *marks) if color}
    assert len(used) == 5
    for color in used:
        for paper in ("#fcfcfa", "#15181c"):
            light, dark = sorted((_luminance(color), _luminance(paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 2.5, (color, paper)


def _luminance(color: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
             for c in colors.to_rgb(color)]  # fmt: skip
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_static_drawing_has_the_same_series_and_axes(charts: dict[str, Chart]) -> None:
    drawn = draw(charts["history"].figure)
    upper, lower = drawn.axes
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "linear")
    assert upper.get_position().y0 > lower.get_position().y1
    assert lower.get_xlabel() == "Trial"
    assert upper.get_xlabel() == ""
    lines = {line.get_label(): line for line in lower.lines}
    plotly = [t for t in charts["history"].figure.data if t.yaxis == "y2"]
    assert len(lower.lines) == len(plotly)
    for line, wanted in zip(lower.lines, plotly, strict=True):
        assert np.asarray(line.get_ydata()).tolist() == list(wanted.y)
    assert lines
    assert [text.get_text() for text in drawn.legends[0].get_texts()].count("trial") == 1


def test_static_bars_stand_side_by_side(charts: dict[str, Chart]) -> None:
    axes = draw(charts["layer_profile"].figure).axes[0]
    first, second = axes.containers
    assert [bar.get_height() for bar in first] == [1.23, 1.23, 1.23, 1.23, 0.0]
    assert first[0].get_x() + first[0].get_width() == pytest.approx(second[0].get_x())
    assert second[0].get_hatch()
    assert axes.get_xticks().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("add", "complaint"),
    [
        (lambda fig: fig.add_contour(z=[[1, 2], [3, 4]]), "type 'contour'"),
        (lambda fig: fig.add_heatmap(z=[[1]], x=[3]), "its own coordinates"),
        (lambda fig: fig.add_scatter(x=[1], y=[1], mode="lines", fill="tozeroy"), "tozeroy"),
        (lambda fig: fig.add_scatter(x=[1], y=[1], mode="lines+text", text=["a"]), "lines[+]text"),
        (lambda fig: fig.add_scatter(x=[1], y=[1], mode="markers", marker_symbol="hash"), "hash"),
        (lambda fig: fig.add_vline(2), "shapes"),
        (lambda fig: fig.add_annotation(text="a"), "annotations"),
        (lambda fig: fig.update_layout(xaxis2={"title": {"text": "b"}}), "xaxis2"),
    ],
)
def test_static_refuses_what_it_cannot_draw(
    charts: dict[str, Chart], add: Callable[[go.Figure], object], complaint: str
) -> None:
    figure = go.Figure(charts["pareto"].figure)
    add(figure)
    with pytest.raises(NotImplementedError, match=complaint):
        draw(figure)


@pytest.mark.parametrize("total", [1, 3, 40, 64, 100, 160, 999])
def test_count_axis_has_a_few_whole_ticks(total: int) -> None:
    ticks = count_axis(total)["tickvals"]
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 8
    assert ticks[-1] <= total


def test_kl_axis_takes_zero_and_nothing() -> None:
    assert kl_axis([0.0, 0.1])["range"][0] == pytest.approx(-4.18)
    assert kl_axis([])["range"][0] < -4
    assert kl_axis([0.02, 0.05])["dtick"] == "D2"

"""Figures by layer: chance, controls and doubts; clouds, slider and panels; turns and angles."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heretic.report import write_report
from heretic.report.chart import Chart
from heretic.report.diagnostic_figures import rotation
from heretic.report.layer_figures import separation
from heretic.report.page import draw_all
from heretic.report.projection import Plane
from heretic.report.projection_figures import MOST_POINTS, all_layers, one_layer
from heretic.report.run_reader import Run, read_run
from heretic.report.static import draw
from report.conftest import WIDTH, Shape, build_run, make_settings, trace


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chart]:
    """Charts of a deep model with everything that a run can use."""
    shape = Shape(layers=64, protected=True, directions=2, positions=2)
    run = read_run(build_run(tmp_path_factory.mktemp("deep") / "demo", shape))
    return {chart.name: chart for chart in draw_all(run)}


def with_column(run: Run, **columns: tuple[float | None, ...]) -> Run:
    return replace(run, geometry={**run.geometry, **columns})


def test_separation_shows_chance_control_and_doubt(charts: dict[str, Chart]) -> None:
    chart = charts["separation"]
    band = trace(chart, "chance (95%)")
    assert band.fill == "toself"
    assert (min(band.x), max(band.x), min(band.y), max(band.y)) == (0.6, 5.4, 0.31, 0.69)
    assert list(trace(chart, "relabeled control").y) == [None, 0.46, 0.54, 0.46, 0.54, 0.46]
    assert list(trace(chart, "not above chance").x) == [0, 1]
    assert "no evidence for a direction: states 0-1." in chart.caption
    assert "control leaves" not in chart.caption
    assert trace(chart, "Cohen's d").yaxis == "y2"


def test_separation_without_doubt_flags_nothing(run: Run) -> None:
    chart = separation(with_column(run, discriminative=(1,) * 6))
    assert "not above chance" not in [t.name for t in chart.figure.data]
    assert "no evidence" not in chart.caption


def test_a_control_that_leaves_the_band_is_told(run: Run) -> None:
    chart = separation(with_column(run, control_auroc=(None, 0.5, 0.71, 0.2, 0.5, 0.5)))
    assert "The control leaves the band at states 2-3." in chart.caption


def test_the_band_has_gaps_in_both_drawings(run: Run) -> None:
    low = (None, 0.3, 0.3, None, 0.3, None)
    chart = separation(with_column(run, chance_low=low))
    assert list(trace(chart, "chance (95%)").x).count(None) == 1
    patches: Any = draw(chart.figure).axes[0].patches
    assert [patch.get_xy()[:, 0].max() for patch in patches] == [2.4, 4.4]


def test_scores_leave_gaps_and_look_different(charts: dict[str, Chart]) -> None:
    chart = charts["geometry"]
    assert trace(chart, "silhouette").y[0] is None
    looks = [(t.line.dash, t.marker.symbol) for t in chart.figure.data if "markers" in t.mode]
    assert len(looks) == len(set(looks)) == 6
    assert "geometric medians differ by at most 0.02" in chart.caption


def test_agreement_draws_halves_and_methods(charts: dict[str, Chart], run: Run) -> None:
    chart = charts["agreement"]
    assert list(trace(chart, "random halves").y) == list(run.geometry["stability"])
    looks = [(t.line.dash, t.marker.symbol) for t in chart.figure.data]
    assert len(looks) == len(set(looks)) == 5


def test_angles_are_drawn_where_there_are_any(
    charts: dict[str, Chart], deep: dict[str, Chart], run: Run
) -> None:
    assert "angles" not in charts
    chart = deep["angles"]
    assert set(trace(chart, "90°").y) == {90}
    assert trace(chart, "refusal, helpfulness").y[64] == 75.0
    assert "refusal, sacred 80 to 85" in chart.alt
    sacred = with_column(run, angle_refusal_sacred=(None, 80.0, 81.0, 82.0, 83.0, 84.0))
    lines = {c.name: c for c in draw_all(sacred)}["angles"].figure.data
    assert [line.name for line in lines] == ["refusal, sacred", "90°", "remaining norm"]


def test_slider_starts_at_the_layer_that_separates_best(charts: dict[str, Chart]) -> None:
    chart = charts["projection"]
    (slider,) = chart.figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1", "2", "3", "4", "5"]
    assert slider.active == 3
    assert draw(chart.figure).get_suptitle() == "Residuals, projected: state 3"
    assert len(trace(chart, "good prompts").x) == len(trace(chart, "bad prompts").x) == 40


@pytest.mark.parametrize("name", ["charts", "deep"])
def test_every_step_fits_the_traces(name: str, request: pytest.FixtureRequest) -> None:
    figure = request.getfixturevalue(name)["projection"].figure
    (slider,) = figure.layout.sliders
    for place, step in enumerate(slider.steps):
        data, layout, traces = step.args
        assert step.method == "update"
        assert list(traces) == list(range(len(figure.data)))
        assert all(len(values) == len(traces) for values in data.values())
        if place == slider.active:
            assert [list(t.x) for t in figure.data] == [list(x) for x in data["x"]]
            assert [list(t.y) for t in figure.data] == [list(y) for y in data["y"]]
            assert [t.name for t in figure.data] == list(data["name"])
            assert figure.layout.xaxis.title.text == layout["xaxis.title.text"]
            assert figure.layout.yaxis.title.text == layout["yaxis.title.text"]


def test_points_are_thinned_and_rounded_for_drawing(run: Run) -> None:
    points = tuple((12345.6789 * place, 0.123456) for place in range(-150, 151))
    planes = [Plane(layer, points, points, None, (0.5, 0.2)) for layer in range(6)]
    chart = one_layer(planes, run.geometry)
    cloud = trace(chart, "good prompts")
    assert len(cloud.x) == MOST_POINTS
    assert all(x % 1000 == 0 for x in cloud.x)
    assert f"{MOST_POINTS} points of each set are shown" in chart.caption


def test_pacmap_has_no_line_and_says_so(run: Run) -> None:
    points = ((0.0, 1.0), (2.0, 3.0))
    planes = [Plane(layer, points, points, None, None) for layer in range(6)]
    one, every = one_layer(planes, run.geometry), all_layers(planes, run.geometry)
    for chart in (one, every):
        assert not [t.name for t in chart.figure.data if t.name.startswith("direction")]
        assert "PaCMAP" in chart.caption
    assert "the direction is not a line" in one.caption
    assert one.figure.layout.xaxis.title.text == "PaCMAP 1"


@pytest.mark.parametrize(("name", "columns"), [("charts", 4), ("deep", 8)])
def test_every_layer_has_a_panel(name: str, columns: int, request: pytest.FixtureRequest) -> None:
    chart = request.getfixturevalue(name)["layers"]
    labels = trace(chart, "layer")
    assert list(labels.text) == [str(layer) for layer in range(len(labels.text))]
    assert chart.figure.layout.xaxis.range[1] == columns
    cells = {(int(x), int(-y)) for x, y in zip(labels.x, labels.y, strict=True)}
    assert len(cells) == len(labels.text)
    for cloud in (trace(chart, "good prompts"), trace(chart, "bad prompts")):
        assert {(int(x), int(-y)) for x, y in zip(cloud.x, cloud.y, strict=True)} == cells
    assert chart.wide == (columns > 4)


def test_panels_keep_proportions(run: Run) -> None:
    points = ((0.0, 0.0), (4.0, 0.0), (0.0, 1.0))
    planes = [Plane(layer, points, points, None, (0.5, 0.2)) for layer in range(6)]
    cloud = trace(all_layers(planes, run.geometry), "good prompts")
    width, height = cloud.x[1] - cloud.x[0], cloud.y[2] - cloud.y[0]
    assert width == pytest.approx(4 * height)
    axes = draw(all_layers(planes, run.geometry).figure).axes[0]
    assert axes.get_aspect() == 1
    assert not axes.axison


def test_rotation_holds_every_pair(charts: dict[str, Chart], deep: dict[str, Chart]) -> None:
    heat = charts["rotation"].figure.data[0]
    assert (heat.zmin, heat.zmax) == (-1, 1)
    assert [heat.z[layer][layer] for layer in range(6)] == [1.0] * 6
    assert heat.z[0][5] == heat.z[5][0] == pytest.approx(0.315, abs=1e-3)
    assert heat.texttemplate
    assert not deep["rotation"].figure.data[0].texttemplate
    assert len(deep["rotation"].figure.data[0].z) == 65


def test_rotation_marks_reversals_and_missing_directions() -> None:
    directions = torch.zeros(20, WIDTH, dtype=torch.float64)
    directions[1:, 0] = 1.0
    directions[11:, 0] = -1.0
    chart = rotation(directions)
    assert set(chart.figure.data[0].z[0]) == {None}
    assert len(trace(chart, "negative").x) == 2 * 10 * 9
    assert "between states 10 and 11 (-1.00)" in chart.caption
    assert "marked by a minus" in chart.caption


def test_static_heat_map_has_the_same_cells(charts: dict[str, Chart]) -> None:
    drawn = draw(charts["rotation"].figure)
    axes, bar = drawn.axes
    z: Any = charts["rotation"].figure.data[0].z
    assert np.asarray(axes.images[0].get_array()).tolist() == [list(row) for row in z]
    assert axes.get_ylim() == (5.5, -0.5)
    assert len(axes.texts) == 36
    assert bar.get_position().y0 > axes.get_position().y1


def test_a_deep_report_stays_light(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "demo", Shape(layers=64, protected=True))
    target = folder / "report.html"
    write_report(folder, run="r", settings=make_settings(), target=target, plots=folder / "plots")
    assert target.stat().st_size < 8_000_000
    assert (folder / "plots" / "layers.svg").stat().st_size < 2_000_000
    text = target.read_text(encoding="utf-8")
    assert "uses the directions of states 1-14, where held-out prompts" in text
    assert 'id="angles"' in text
    assert 'role="group" tabindex="0"' in text

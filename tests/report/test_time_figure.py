"""The pie of a trial's seconds: right shares, every slice named, nothing where nothing is known."""

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Wedge

from heretic.report.chart import Chart
from heretic.report.page import draw_all
from heretic.report.run_reader import Run, read_run
from heretic.report.search_figures import LOOKS, OTHER, seconds_by_stage
from heretic.report.static import draw, spread
from heretic.timing import STAGES
from report.conftest import SHARES, trial_rows


def pie_of(run: Run) -> Chart:
    chart = seconds_by_stage(run)
    assert chart is not None
    return chart


def test_slices_are_mean_seconds_of_feasible_trials(charts: dict[str, Chart]) -> None:
    (pie,) = charts["stages"].figure.data
    feasible = [row["seconds"] for row in trial_rows() if row["state"] == "complete"]
    mean = sum(feasible) / len(feasible)
    assert pie.labels == ("sampler", "edit", "prefill", "decode", OTHER)
    small = SHARES["restore"] + SHARES["overhead"]
    shares = [0.02, 0.05, 0.2, 0.72, small]
    assert list(pie.values) == pytest.approx([mean * share for share in shares])
    assert pie.text[3] == f"decode: {0.72 * mean:.3g} s, 72%"
    assert "27 feasible trials" in charts["stages"].caption
    assert "up to 4 trials per batch" in charts["stages"].caption
    assert 'below 1% are "other"' in charts["stages"].caption
    assert all(text in charts["stages"].alt for text in pie.text)


def test_no_two_slices_that_touch_look_alike() -> None:
    assert set(LOOKS) == {*STAGES, OTHER}
    assert len(set(LOOKS.values())) == len(LOOKS)
    for one, other in pairwise(["sampler", "restore", "edit", "prefill", "decode", "overhead"]):
        assert LOOKS[one][0] != LOOKS[other][0]


def test_stages_of_which_none_is_small_are_all_shown(run: Run) -> None:
    even = dict.fromkeys(STAGES, 0.5)
    pie = pie_of(replace(run, trials=tuple(replace(t, stages=even) for t in run.trials))).figure
    assert pie.data[0].labels == STAGES
    assert pie.data[0].text[0] == "sampler: 0.5 s, 17%"


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        ({}, "s each; stages"),
        ({"trial_batch_size": 1}, "s each, one trial at a time; stages"),
        ({"name": "batched", "trial_batch_size": 2, "more": [1]},
         "s each with the engine batched, up to 2 trials per batch; stages"),
    ],
)  # fmt: skip
def test_the_caption_tells_what_is_known_of_the_engine(
    run: Run, engine: dict[str, object], wanted: str
) -> None:
    assert wanted in pie_of(replace(run, engine=engine)).caption


def test_runs_that_tell_no_stages_have_no_such_figure(run_folder: Path) -> None:
    rows = list(csv.DictReader((run_folder / "trials.csv").open()))
    kept = [name for name in rows[0] if not name.startswith("seconds_")]
    with (run_folder / "trials.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    run = read_run(run_folder)
    assert "stages" not in [chart.name for chart in draw_all(run)]


def test_trials_without_stages_do_not_count(run: Run) -> None:
    first, *others = (t for t in run.trials if t.feasible)
    known = (first, *(replace(t, stages={}) for t in others))
    assert "1 feasible trials" in pie_of(replace(run, trials=known)).caption
    (pie,) = pie_of(replace(run, trials=known)).figure.data
    assert sum(pie.values) == pytest.approx(first.seconds)


def test_static_pie_has_the_same_slices_and_labels(charts: dict[str, Chart]) -> None:
    (pie,) = charts["stages"].figure.data
    (axes,) = draw(charts["stages"].figure).axes
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    angles = [wedge.theta2 - wedge.theta1 for wedge in wedges]
    assert angles == pytest.approx([360 * v / sum(pie.values) for v in pie.values], abs=1e-3)
    assert wedges[0].theta2 == pytest.approx(90)
    texts = [text for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(pie.text)
    assert all(abs(text.get_position()[1]) < 1.7 for text in texts)
    assert [bool(wedge.get_hatch()) for wedge in wedges] == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"sort": True}, "sorted"), ({"textposition": "inside"}, "texts of a pie")],
)
def test_another_kind_of_pie_is_refused(
    charts: dict[str, Chart], change: dict[str, object], complaint: str
) -> None:
    figure = charts["stages"].figure
    figure = type(figure)(figure).update_traces(**change)
    with pytest.raises(NotImplementedError, match=complaint):
        draw(figure)


@given(st.lists(st.floats(-1, 1), max_size=7))
def test_labels_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    wanted = sorted(wanted)
    places = spread(wanted, 0.2)
    assert len(places) == len(wanted)
    assert all(above - below > 0.2 - 1e-9 for below, above in pairwise(places))
    if all(above - below > 0.2 for below, above in pairwise(wanted)):
        assert places == pytest.approx(wanted)
    assert sum(places) == pytest.approx(sum(wanted), abs=1e-6)

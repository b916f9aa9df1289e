"""What several rules took: a row each, a mark in the figure, nothing where there is one rule."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from heretic.artifacts import read_json, write_json
from heretic.errors import HereticError
from heretic.report import write_report
from heretic.report.picks import picks_table
from heretic.report.run_reader import Run, read_run
from heretic.report.search_figures import pareto
from report.conftest import build_pick, make_settings, trace


@pytest.fixture
def picked(run_folder: Path) -> Run:
    picks = [
        build_pick(run_folder, "knee", 5, refusals=7),
        build_pick(run_folder, "trial=17", 17, refusals=2),
    ]
    return read_run(run_folder, picks)


def test_a_row_for_each_rule(picked: Run) -> None:
    table = picks_table(picked)
    assert table is not None
    assert table.headings == (
        "Search: kl_first_token", "Search: refusals",
        "Held out: Refusals", "Held out: Recovered", "Held out: KL first token",
    )  # fmt: skip
    assert [(row.rule, row.trial, row.model) for row in table.rows] == [
        ("closest", 17, "model"),
        ("knee", 5, "picks/knee/model"),
        ("trial=17", 17, "picks/trial-17/model"),
    ]
    values = [[cell.value for cell in row.cells] for row in table.rows]
    assert values[0] == ["0.0211", "1", "1.6%", "96.1%", "0.0253"]
    assert values[1] == ["0.25", "3", "5.5%", "93.8%", "0.123"]
    assert [cell.count for cell in table.rows[1].cells] == ["", "", "7/128", "120/128", ""]
    assert table.alike == (
        "closest and trial=17 selected the same trial 17, so their models are identical."
    )


def test_a_pick_is_marked_on_the_front(picked: Run, run: Run) -> None:
    chart = pareto(picked)
    marked, star = trace(chart, "further picks"), trace(chart, "chosen")
    assert [text.split("<br>")[0] for text in marked.text] == ["<b>Trial 5</b>", "<b>Trial 17</b>"]
    assert marked.marker.symbol != star.marker.symbol
    assert len(star.x) == 1
    assert all(series.name != "further picks" for series in pareto(run).figure.data)


def test_a_single_rule_has_no_table(run: Run) -> None:
    assert picks_table(run) is None


def test_the_page_tells_of_all_picks(
    picked: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heretic.report.page.draw_all", lambda *_: [])
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    folders = [picked.folder / "picks" / name for name in ("knee", "trial-17")]
    target = tmp_path / "report.html"

    def write(picks: Sequence[Path]) -> None:
        write_report(
            picked.folder,
            run="r",
            settings=make_settings(),
            target=target,
            plots=tmp_path / "plots",
            picks=picks,
        )

    with caplog.at_level(logging.INFO, "heretic"):
        write(folders)
    assert "selected the same trial 17" in caplog.text
    page = target.read_text(encoding="utf-8")
    assert "All picks" in page
    assert "picks/trial-17/model" in page
    write([])
    assert "All picks" not in target.read_text(encoding="utf-8")


def test_a_pick_of_an_unknown_trial_is_named(run_folder: Path) -> None:
    pick = build_pick(run_folder, "knee", 99, refusals=7)
    with pytest.raises(HereticError, match=r"no trial 99, which .*knee/best\.json selected"):
        read_run(run_folder, [pick])
    write_json(pick / "best.json", {**read_json(run_folder / "best.json"), "trial": "x"})
    with pytest.raises(HereticError, match=r"knee/best\.json"):
        read_run(run_folder, [pick])

"""The record of a phase: when it changes, what it says, and jobs that it refuses."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from heretic.errors import HereticError
from heretic.phases import Phase, continued_search, read_phase, unchanged_phase

CODE = {"scripts/optimize.py": "a", "model/chat.py": "b"}


def phase(code: Mapping[str, str] = CODE, **settings: Any) -> Phase:
    return Phase("optimize", settings, code)


def test_a_record_is_written_only_when_its_content_changes(tmp_path: Path) -> None:
    path = tmp_path / ".phases" / "optimize.json"
    phase(n_trials=60).record(path)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    phase(n_trials=60).record(path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    phase(n_trials=80).record(path)
    assert path.stat().st_ino != before[1]
    assert read_phase(path) == phase(n_trials=80)


def finish_job(path: Path, **settings: Any) -> None:
    with unchanged_phase(str(path), settings):
        pass


def test_settings_that_change_back_are_recorded_as_new(tmp_path: Path) -> None:
    """A job that nobody watched may have written results of the settings in between."""
    path = tmp_path / "optimize.json"
    phase(max_kl=0.5).record(path)
    before = path.read_text()
    finish_job(path, max_kl=0.5)
    phase(max_kl=0.4).record(path)
    finish_job(path, max_kl=0.4)
    phase(max_kl=0.5).record(path)
    assert read_phase(path) == phase(max_kl=0.5)
    assert path.read_text() != before


def test_settings_that_change_back_before_a_job_starts_keep_its_results(tmp_path: Path) -> None:
    path = tmp_path / "optimize.json"
    phase(max_kl=0.5).record(path)
    finish_job(path, max_kl=0.5)
    before = path.read_text()
    phase(max_kl=0.4).record(path)
    phase(max_kl=0.5).record(path)
    assert path.read_text() == before


def test_a_job_that_fails_leaves_no_finished_record(tmp_path: Path) -> None:
    path = tmp_path / "optimize.json"
    phase(max_kl=0.5).record(path)
    before = path.read_text()
    finish_job(path, max_kl=0.5)
    with pytest.raises(KeyError, match="x"), unchanged_phase(str(path), {"max_kl": 0.5}):
        raise KeyError("x")
    phase(max_kl=0.4).record(path)
    phase(max_kl=0.5).record(path)
    assert path.read_text() != before


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ({"n_trials": 60}, {"n_trials": 80}, "n_trials 60 -> 80"),
        ({"select": "knee"}, {"select": "closest"}, "select knee -> closest"),
        ({"max_kl": 0.5}, {"max_kl": None}, "max_kl 0.5 -> null"),
        ({}, {"picks": []}, "picks (not set) -> []"),
        ({"sets": ["a", "b"]}, {"sets": ["b", "c"]}, "sets -a +c"),
        (
            {"sources": [{"dataset": "x", "split": "train[:4]"}]},
            {"sources": [{"dataset": "x", "split": "train[:8]"}]},
            "sources.split train[:4] -> train[:8]",
        ),
        ({"template": "x" * 500}, {"template": ""}, f'template {"x" * 59}… -> ""'),
        ({"a": 1, "b": 2}, {"a": 2, "b": 3}, "a 1 -> 2|b 2 -> 3"),
    ],
)
def test_changes_name_the_setting_and_both_values(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], text: str
) -> None:
    path = tmp_path / "optimize.json"
    phase(**before).record(path)
    assert "|".join(phase(**after).changes(path)) == text


def test_changed_code_is_named(tmp_path: Path) -> None:
    path = tmp_path / "optimize.json"
    phase().record(path)
    assert phase({**CODE, "model/chat.py": "c"}).changes(path) == ["code of model/chat.py"]
    both = phase({"scripts/optimize.py": "x", "model/chat.py": "y"})
    assert both.changes(path) == ["code of model/chat.py and 1 more"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rule": 5}', '{"rule": "optimize"}'])
def test_a_damaged_record_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "optimize.json"
    path.write_text(text)
    assert phase(n_trials=1).changes(path) == []
    phase(n_trials=1).record(path)
    assert read_phase(path) == phase(n_trials=1)


class Search:
    """A search's record and its results, brought up to date as the workflow does."""

    def __init__(self, folder: Path) -> None:
        self.record, self.results = folder / ".phases" / "optimize.json", folder / "study.json"

    def asks(self, n_trials: int, **settings: Any) -> bool:
        """Request a search; return whether that makes its results stale."""
        wanted = continued_search(phase(n_trials=n_trials, **settings), self.record, self.results)
        stale = not wanted.is_recorded(self.record)
        wanted.record(self.record)
        return stale

    def finishes(self, n_trials: int) -> None:
        self.results.write_text(json.dumps({"n_trials": n_trials}))

    def is_killed(self) -> None:
        self.results.unlink(missing_ok=True)


def test_a_smaller_number_of_trials_searches_nothing(tmp_path: Path) -> None:
    search = Search(tmp_path)
    assert search.asks(60)
    search.finishes(60)
    assert not search.asks(60)
    assert search.asks(80)
    search.finishes(80)
    assert not search.asks(80)
    assert not search.asks(60)
    assert not search.asks(80)
    assert search.asks(60, max_weight=2.0)


def test_a_search_that_was_killed_is_asked_for_again(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.asks(60)
    search.finishes(60)
    search.asks(80)
    search.is_killed()
    assert not search.asks(80)  # its results are missing, which is reason enough
    assert search.asks(60)


def test_a_search_of_fewer_trials_than_recorded_is_continued(tmp_path: Path) -> None:
    """Other directions made a search of 60 trials after one of 80."""
    search = Search(tmp_path)
    search.asks(80)
    search.finishes(80)
    assert not search.asks(60)
    search.finishes(60)
    assert not search.asks(60)
    assert search.asks(80)
    search.finishes(80)
    assert not search.asks(80)


def test_a_job_whose_record_stays_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "optimize.json"
    phase(n_trials=80, max_kl=0.5, model_path="x").record(path)
    with unchanged_phase(str(path), {"n_trials": 60, "max_kl": 0.5}):
        pass


def test_a_job_of_other_settings_does_not_start(tmp_path: Path) -> None:
    path, began = tmp_path / "optimize.json", False
    phase(max_kl=0.5).record(path)
    with (
        pytest.raises(HereticError, match=r"changed max_kl of optimize.*run_name"),
        unchanged_phase(str(path), {"max_kl": 0.4}),
    ):
        began = True
    assert not began


def test_a_job_is_refused_when_its_settings_change_while_it_works(tmp_path: Path) -> None:
    path = tmp_path / "optimize.json"
    phase(max_kl=0.5).record(path)
    with (
        pytest.raises(HereticError, match="changed the settings or the code of optimize"),
        unchanged_phase(str(path), {"max_kl": 0.5}),
    ):
        phase(max_kl=0.4).record(path)

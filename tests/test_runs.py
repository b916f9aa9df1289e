"""Jobs read exactly the settings that were resolved once for all of them."""

from pathlib import Path

import pytest

from heretic.errors import SettingsError
from heretic.runs import pinned_file, read_pinned, resolve_runs, write_pinned


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_jobs_read_what_was_resolved(here: Path) -> None:
    runs = resolve_runs([], {"HERETIC_N_TRIALS": "7"}, {"seed": "3"}, here / "results")
    assert [(run, found.n_trials, found.seed) for run, found in runs.items()] == [("demo", 7, 3)]
    path = pinned_file(runs)
    write_pinned(path, runs)
    assert read_pinned(path) == runs


def test_the_file_is_named_after_the_settings(here: Path) -> None:
    one, same, other = (
        pinned_file(resolve_runs([], {}, {"seed": seed}, here / "results")) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_an_invalid_setting_is_one_line(here: Path) -> None:
    with pytest.raises(SettingsError, match="n_trials"):
        resolve_runs([], {}, {"n_trials": "many"}, here / "results")

"""A search looked at from outside, also while another process writes it."""

import signal
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from heretic.errors import StudyError
from heretic.search.pending import BufferedStudy
from heretic.search.samplers import Sampling, make_sampler
from heretic.search.status import read_search, search_table
from heretic.search.study import open_study
from heretic.timing import STAGES
from search.small_search import OBJECTIVES, STUDY, search
from search.test_study import HERE, waiting_process


def test_a_running_search_is_read_by_another_process(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    program = (HERE / "small_search.py").read_text(encoding="utf-8")
    with waiting_process(program, database, 8, 3) as process:
        seen = read_search(database)
        assert [record.number for record in seen.records] == [0, 1, 2]
        assert seen.unfinished == {3: "running"}
        assert seen.n_trials == 8
        lines = search_table(seen).splitlines()
        assert lines[4].split() == ["3", "running"]
        assert lines[-2].startswith(f"{STUDY}: 3 of 8 trials complete, 1 running, ")
        assert lines[-2].endswith(" left")
        told = lines[-1].removeprefix("Mean seconds of a feasible trial: ").split(", ")
        assert [part.split()[0] for part in told] == list(STAGES)
        assert sum(float(part.split()[1]) for part in told) > 0
        # Looking changes nothing: the writer still has its trial.
        assert read_search(database) == seen
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_search(database) == seen
    records = search(database, 5)
    later = read_search(database)
    assert list(later.records) == records
    assert later.unfinished == {}


def test_what_another_program_cut_off_is_shown(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    with open_study(database, STUDY, OBJECTIVES) as study:
        study.ask()
        study.enqueue_trial({})
    assert read_search(database).unfinished == {0: "running", 1: "waiting"}
    search(database, 1)
    later = read_search(database)
    assert later.unfinished == {0: "interrupted", 1: "interrupted"}
    assert "1  interrupted" in search_table(later)
    assert "interrupted" not in search_table(later, only_front=True)
    with open_study(database, STUDY, OBJECTIVES) as study:
        memory = BufferedStudy(study)
        memory.keep([memory.ask(make_sampler(Sampling(0, 3), 0))])
    assert read_search(database).unfinished == {**later.unfinished, 3: "waiting"}


def test_a_study_whose_first_trial_is_in_flight_is_shown(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    search(database, 1)
    with open_study(database, "other", OBJECTIVES) as study:
        memory = BufferedStudy(study)
        memory.keep([memory.ask(make_sampler(Sampling(0, 3), 0))])
        assert read_search(database).study == "other"
        assert read_search(database).unfinished == {0: "running"}


def test_the_study_with_the_latest_trial_is_shown(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    for name in ("first", "second", "first"):
        with open_study(database, name, OBJECTIVES) as study:
            study.tell(study.ask(), state=TrialState.FAIL)
    assert read_search(database).study == "first"
    assert read_search(database).others == ("second",)
    assert "Other studies in the file: second" in search_table(read_search(database))
    assert read_search(database, "second").study == "second"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    with pytest.raises(StudyError, match="start the search first"):
        read_search(database)
    with open_study(database, "one", OBJECTIVES):
        pass
    with pytest.raises(StudyError, match=r"has no study two; available: \['one'\]"):
        read_search(database, "two")
    database.write_bytes(b"this is no database" * 100)
    with pytest.raises(StudyError, match="cannot be used"):
        read_search(database)


def test_somebody_who_looks_before_the_first_trial_disturbs_nothing(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    with open_study(database, STUDY, OBJECTIVES) as study:
        assert read_search(database).records == ()
        optuna.load_study(study_name=STUDY, storage=f"sqlite:///{database}")
        study.tell(study.ask(), [0.1, 1])
    assert not list(tmp_path.glob(".*.partial"))

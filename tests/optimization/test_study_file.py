"""What befalls the file of a study: other processes, faults of the disk, earlier versions."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from optuna.trial import TrialState
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from users import ANOTHER, as_another_user, shared_folder

from heretic.errors import StudyError
from heretic.optimization.records import TrialRecord
from heretic.optimization.study import database_errors, kept_trials, open_study
from heretic.optimization.watch import read_search
from optimization.small_search import OBJECTIVES, STUDY, search
from optimization.test_study import N, states, told, waiting_process

HOLD_THE_STUDY = f"""
import sys, time
from pathlib import Path
from heretic.optimization.study import open_study
with open_study(Path(sys.argv[1]), {STUDY!r}, {OBJECTIVES!r}) as study:
    study.ask()
    print("hanging", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """Eight trials in one go."""
    return search(tmp_path_factory.mktemp("undisturbed") / "study.db", N)


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    with waiting_process(HOLD_THE_STUDY, database) as process:
        with (
            pytest.raises(StudyError, match=rf"another process \(pid {process.pid} on .*wait"),
            open_study(database, STUDY, OBJECTIVES),
        ):
            pytest.fail("two writers")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert states(database) == [TrialState.FAIL]


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    with pytest.raises(ZeroDivisionError), open_study(database, STUDY, OBJECTIVES):
        raise ZeroDivisionError
    assert states(database) == []


def test_what_an_earlier_version_left_running_or_queued_has_failed(
    tmp_path: Path, undisturbed: list[TrialRecord]
) -> None:
    database = tmp_path / "study.db"
    search(database, 3)
    with open_study(database, STUDY, OBJECTIVES) as study:
        study.ask()
        study.enqueue_trial({"direction_index": 1.0})
    resumed = search(database, N)
    assert told(resumed) == told(undisturbed)
    # What has failed keeps its number.
    assert [record.number for record in resumed] == [0, 1, 2, *range(5, N + 2)]
    failed = [n for n, state in enumerate(states(database)) if state == TrialState.FAIL]
    assert failed == [3, 4]


@pytest.mark.parametrize("table", ["trials", "trial_system_attributes"])
def test_a_fault_while_a_trial_is_stored_leaves_none_of_it(
    tmp_path: Path, undisturbed: list[TrialRecord], table: str
) -> None:
    """The first and the last of the tables that it is written to."""
    database = tmp_path / "study.db"
    search(database, 2)
    fault = "BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
    _execute(database, f"CREATE TRIGGER fault BEFORE INSERT ON {table} {fault}")
    with pytest.raises(StudyError, match=r"disk I/O error.*its trials are kept"):
        search(database, 4)
    _execute(database, "DROP TRIGGER fault")
    assert states(database) == [TrialState.COMPLETE] * 2
    assert told(search(database, 4)) == told(undisturbed[:4])


def test_a_full_disk_is_told_and_the_search_goes_on_when_there_is_space(
    tmp_path: Path, undisturbed: list[TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may not grow, which SQLite tells as it tells a disk that is full."""
    database = tmp_path / "study.db"
    search(database, 1)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between Optuna's attempts
    event.listen(Engine, "connect", _forbid_growth)
    try:
        with pytest.raises(StudyError, match=r"disk is full.*free some space"):
            search(database, N)
    finally:
        event.remove(Engine, "connect", _forbid_growth)
    assert set(states(database)) == {TrialState.COMPLETE}
    assert told(search(database, N)) == told(undisturbed)


def _forbid_growth(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size instead


def _execute(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("damage", ["not a database", "torn", "folder"])
def test_a_damaged_database_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    database = tmp_path / "study.db"
    if damage == "not a database":
        database.write_bytes(b"this is no database, whatever its name says " * 100)
    elif damage == "folder":
        database.mkdir()
    else:
        with open_study(database, STUDY, OBJECTIVES):
            pass
        content = database.read_bytes()
        database.write_bytes(content[:100] + bytes(len(content) - 100))
    with (
        pytest.raises(StudyError, match=r"study\.db cannot be used .*move the file away") as caught,
        open_study(database, STUDY, OBJECTIVES),
    ):
        pytest.fail("opened")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("database or disk is full", "free some space on the disk and run again, its trials are"),
        ("database is locked", "close that and run again, its trials are kept"),
        ("database disk image is malformed", "move the file away to start anew"),
    ],
)
def test_only_a_damaged_study_is_to_be_moved_away(tmp_path: Path, said: str, told: str) -> None:
    fault = OperationalError("INSERT", {}, sqlite3.OperationalError(said))
    with pytest.raises(StudyError, match=told), database_errors(tmp_path / "study.db"):
        raise fault


# Leaves pages of an unfinished transaction in the file, and its journal beside it.
CUT_OFF = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("DELETE FROM trial_user_attributes")
connection.execute("CREATE TABLE bulk (text)")
connection.executemany("INSERT INTO bulk VALUES (?)", [("x" * 4000,)] * 200)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """The database of four trials, whose writer was killed in the middle of writing."""
    database = tmp_path / "study.db"
    search(database, 4)
    subprocess.run([sys.executable, "-c", CUT_OFF, str(database)], check=False)
    assert (tmp_path / "study.db-journal").stat().st_size > 0
    return database


def test_a_reader_restores_what_a_killed_writer_left(cut_off: Path, tmp_path: Path) -> None:
    assert len(read_search(cut_off).records) == 4
    assert not (tmp_path / "study.db-journal").exists()


@ANOTHER
def test_a_reader_who_may_not_write_is_told_what_to_do() -> None:
    def look(database: Path) -> str:
        with pytest.raises(StudyError) as told:
            read_search(database)
        return str(told.value)

    with shared_folder() as folder:
        database = folder / "study.db"
        search(database, 2)
        subprocess.run([sys.executable, "-c", CUT_OFF, str(database)], check=False)
        folder.chmod(0o755)
        line = as_another_user(lambda: look(database))
    assert "cannot be used" in line
    assert "run the search again" in line
    assert "\n" not in line


def test_the_trials_that_an_interrupted_search_keeps(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    with pytest.raises(StudyError, match="start the search first"):
        kept_trials(database, 0.0)
    begun = time.time()
    search(database, 3)
    assert kept_trials(database, begun) == 3
    # Trials of an earlier search say nothing of one that has not tried any.
    assert kept_trials(database, time.time()) is None
    with open_study(database, "another objective", OBJECTIVES):
        pass
    assert kept_trials(database, begun) == 3

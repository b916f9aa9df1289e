"""What befalls the file of a study: other processes, faults of the disk, other programs."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from optuna.trial import TrialState
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError
from users import ANOTHER, as_another_user, shared_folder

from heretic.errors import StudyError
from heretic.search.database import database_errors, open_storage
from heretic.search.records import TrialRecord
from heretic.search.status import read_search
from heretic.search.study import kept_trials, open_study
from search.small_search import OBJECTIVES, STUDY, cut_off_in_a_transaction, search
from search.test_study import N, states, told, waiting_process

HOLD_THE_STUDY = f"""
import sys, time
from pathlib import Path
from heretic.search.study import open_study
with open_study(Path(sys.argv[1]), {STUDY!r}, {OBJECTIVES!r}) as study:
    study.ask()
    print("hanging", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """Eight trials in one go."""
    return search(tmp_path_factory.mktemp("undisturbed") / "study.db", N)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a search of two trials."""
    database = tmp_path_factory.mktemp("two") / "study.db"
    search(database, 2)
    return database


@pytest.fixture
def two_trials(tmp_path: Path, finished: Path) -> Path:
    """A copy of it for a test to change."""
    return Path(shutil.copy(finished, tmp_path / "study.db"))


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


def test_what_another_program_left_running_or_queued_has_failed(
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
    two_trials: Path, undisturbed: list[TrialRecord], table: str
) -> None:
    """The first and the last of the tables that it is written to."""
    fault = "BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
    _execute(two_trials, f"CREATE TRIGGER fault BEFORE INSERT ON {table} {fault}")
    with pytest.raises(StudyError, match=r"disk I/O error.*its trials are kept"):
        search(two_trials, 4)
    _execute(two_trials, "DROP TRIGGER fault")
    assert states(two_trials) == [TrialState.COMPLETE] * 2
    assert told(search(two_trials, 4)) == told(undisturbed[:4])


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
        ("database or disk is full", "free some space on the disk and run again; its trials are"),
        ("database is locked", "close that and run again; its trials are kept"),
        ("database disk image is malformed", "move the file away to start over"),
    ],
)
def test_only_a_damaged_study_is_to_be_moved_away(tmp_path: Path, said: str, told: str) -> None:
    fault = OperationalError("INSERT", {}, sqlite3.OperationalError(said))
    with pytest.raises(StudyError, match=told), database_errors(tmp_path / "study.db"):
        raise fault


def test_a_write_that_was_cut_off_is_rolled_back_by_the_next_search(
    two_trials: Path, undisturbed: list[TrialRecord]
) -> None:
    cut_off_in_a_transaction(two_trials)
    assert two_trials.with_name("study.db-journal").exists()
    assert told(search(two_trials, 4)) == told(undisturbed[:4])
    assert len(read_search(two_trials).records) == 4


def test_an_empty_file_is_a_new_study_and_nothing_to_look_at(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    database.touch()
    with pytest.raises(StudyError, match=r"study\.db cannot be used \(it is empty\)"):
        read_search(database)
    assert len(search(database, 1)) == 1


def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    """Optuna would add its tables to it."""
    database = tmp_path / "study.db"
    _execute(database, "CREATE TABLE cookies (a)")
    before = database.read_bytes()
    for use in (read_search, search_once):
        with pytest.raises(StudyError, match=r"it is not a study: it has no table"):
            use(database)
    assert database.read_bytes() == before


def search_once(database: Path) -> list[TrialRecord]:
    return search(database, 1)


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"CREATE VIEW v AS {ENDLESS}", "has views"),
        ("UPDATE trial_user_attributes SET value_json = 'null'", "trial 0 of the study is damaged"),
        ("UPDATE trial_user_attributes SET value_json = '{\"seconds\": 1}'", "parameters: Field"),
        ("UPDATE trial_user_attributes SET value_json = 'x'", "Expecting value"),
        ("UPDATE trial_params SET distribution_json = 'null'", "cannot be used"),
        ("UPDATE trials SET state = 'X'", "cannot be used"),
        (
            "UPDATE alembic_version SET version_num = 'v0.0.1'",
            "it was created by another version of Optuna",
        ),
        ("DELETE FROM version_info", "cannot be used|another version"),
    ],
)
def test_odd_rows_are_one_line_for_whoever_looks_and_for_a_search(
    two_trials: Path, statement: str, words: str
) -> None:
    with closing(sqlite3.connect(two_trials)) as connection:
        connection.execute(statement)
        connection.commit()
    if "version_info" in statement:  # which a search writes again
        with pytest.raises(StudyError):
            read_search(two_trials)
        return
    for use in (read_search, search_once):
        with pytest.raises(StudyError, match=words) as caught:
            use(two_trials)
        assert "\n" not in str(caught.value)


def test_an_attribute_that_is_nested_too_deeply(two_trials: Path) -> None:
    with closing(sqlite3.connect(two_trials)) as connection:
        connection.execute("UPDATE study_user_attributes SET value_json = ?", ("[" * 100_000,))
        connection.commit()
    with pytest.raises(StudyError, match="its values are nested too deeply"):
        read_search(two_trials)


def test_no_statement_runs_without_end(two_trials: Path) -> None:
    """Nor is a value of any length read."""
    engine = open_storage(two_trials, read_only=True).engine
    for statement, words in ((ENDLESS, "endlessly"), ("SELECT zeroblob(1 << 28)", "too big")):
        with (
            pytest.raises(StudyError, match=words),
            database_errors(two_trials),
            engine.connect() as connection,
        ):
            connection.execute(text(statement)).fetchall()


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
    assert "rerun it to repair the file" in line
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

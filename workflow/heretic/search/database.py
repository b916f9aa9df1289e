"""SQLite file of a study: its permitted contents, opening, and error handling.

The file may be in a folder that others can write to. It is therefore checked before Optuna opens
it, which would add its tables to any database, and statements are limited in steps and value sizes.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from alembic.util import CommandError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from heretic.errors import StudyError, one_line
from heretic.search.stored import DAMAGED

SECONDS_TO_WAIT_FOR_SQLITE = 60
# Advice for SQLite errors of an intact file.
ADVICE = {
    "is full": "free some space on the disk and run again; its trials are kept",
    "disk I/O error": "check the disk and run again; its trials are kept",
    "locked": "another program holds it; close that and run again; its trials are kept",
    "readonly": "a search was interrupted while writing; rerun it to repair the file, or fix its "
    "permissions",
    "runtime optuna version": "it was created by another version of Optuna; install that version, "
    "or move the file away to start over",
}
MAGIC = b"SQLite format 3\0"
# Those of Optuna's tables that are read.
TABLES = frozenset(
    {
        *("studies", "study_directions", "study_user_attributes", "trials", "trial_params"),
        *("trial_values", "trial_user_attributes", "trial_system_attributes"),
        *("version_info", "alembic_version"),
    }
)
MOST_OBJECTS = 200
# Steps of SQLite's virtual machine, about ten per row: 100,000 trials take a fifth of this limit.
STEPS_BETWEEN_LOOKS, MOST_LOOKS = 1_000_000, 40
LONGEST_VALUE = 64 * 1024**2
# Errors of Optuna, its libraries and the standard library caused by malformed rows.
ODD_ROWS = (
    *(SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, RuntimeError, CommandError),
)


class _Cursor(sqlite3.Cursor):
    """Count the steps of each statement from zero."""

    def execute(self, *arguments: Any) -> "_Cursor":
        connection = self.connection
        if isinstance(connection, _Connection):
            connection.looks = 0
        super().execute(*arguments)
        return self


class _Connection(sqlite3.Connection):
    """Interrupt endless statements and reject oversized values."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.looks = 0
        self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        self.set_progress_handler(self._look, STEPS_BETWEEN_LOOKS)

    def _look(self) -> bool:
        self.looks += 1
        return self.looks > MOST_LOOKS

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)


def open_storage(database: Path, *, read_only: bool = False) -> RDBStorage:
    """Return Optuna's storage in an SQLite file.

    Args:
        database: path of the file.
        read_only: whether to open it for reading only, as another process may be writing.
    """
    url = storage_url(database) + ("&mode=ro" if read_only else "")
    arguments = {"timeout": SECONDS_TO_WAIT_FOR_SQLITE, "factory": _Connection}
    return RDBStorage(url, engine_kwargs={"connect_args": arguments})


def storage_url(database: Path) -> str:
    """Return the URL of an SQLite file for Optuna, with special characters in its path escaped."""
    return f"sqlite:///{_uri(database)}"


def require_study_file(database: Path, *, read_only: bool = True) -> None:
    """Reject a file with anything but Optuna's tables, without writing to it.

    Args:
        database: path of the file.
        read_only: whether the caller only reads the file.

    Raises:
        StudyError: the file is not an Optuna database; the message says what it is.
    """
    with reading_errors(database):
        if database.is_dir():
            raise ValueError("it is a folder")
        with database.open("rb") as stream:
            head = stream.read(len(MAGIC))
        if head != MAGIC:
            raise ValueError("it is empty" if not head else "file is not a database")
        if read_only:
            _roll_back(database)
        address = f"{_uri(database)}&mode={'ro' if read_only else 'rw'}"
        with closing(sqlite3.connect(address, uri=True, factory=_Connection)) as connection:
            # Views and virtual tables have no root page.
            found = connection.execute(
                "SELECT name, type, coalesce(rootpage, 0) FROM sqlite_master LIMIT ?",
                (MOST_OBJECTS,),
            ).fetchall()
        tables = {name for name, kind, page in found if kind == "table" and page}
        lacking = sorted(TABLES - tables)
        if lacking:
            raise ValueError(f"it is not a study: it has no table {lacking[0]}")
        if any(kind not in ("index", "trigger") and not page for _, kind, page in found):
            raise ValueError("it has views, which no search creates")


def _roll_back(database: Path) -> None:
    """Roll back an interrupted write of a killed process, if this user has write access."""
    journal = database.with_name(f"{database.name}-journal")
    if journal.exists() and os.access(database, os.W_OK):
        with closing(sqlite3.connect(f"{_uri(database)}&mode=rw", uri=True)) as writable:
            writable.execute("SELECT count(*) FROM sqlite_master").fetchone()


@contextmanager
def database_errors(database: Path) -> Iterator[None]:
    """Report SQLite errors of an unusable database in one line.

    Raises:
        StudyError: the disk is full, or the file is damaged.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _unusable(database, error) from error


@contextmanager
def reading_errors(database: Path | str) -> Iterator[None]:
    """Report any error caused by a file's rows while they are read in one line.

    Raises:
        StudyError: the file contains malformed rows.
    """
    try:
        yield
    except (*ODD_ROWS, OSError) as error:
        raise _unusable(database, error) from error


def _unusable(database: Path | str, error: BaseException) -> StudyError:
    root = _root(error)
    reason = one_line(root)
    if isinstance(root, RecursionError):
        reason = "its values are nested too deeply"
    if "interrupted" in reason:
        reason = "a statement runs endlessly"
    advice = next((told for said, told in ADVICE.items() if said in str(root)), DAMAGED)
    return StudyError(f"the study in {database} cannot be used ({reason}); {advice}")


def _root(error: BaseException) -> BaseException:
    """Return the error of SQLite itself, without the text added by Optuna and SQLAlchemy."""
    return _root(error.__cause__) if error.__cause__ else error


def _uri(database: Path) -> str:
    return f"file:{quote(str(database.resolve()))}?uri=true"

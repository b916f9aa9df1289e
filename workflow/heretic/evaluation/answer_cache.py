"""Database cache of a model's answers to benchmark documents, kept between runs.

lm-evaluation-harness stores them as pickles, which can execute code when read: anyone who can write
to a shared folder could execute code as the next user. Here each answer is JSON text whose type is
checked when it is read.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM, CachingLM

from heretic.errors import HereticError, one_line

# Different from that of earlier versions, whose databases contain pickles and are never opened.
SUFFIX = ".sqlite"
SCHEMA = "CREATE TABLE answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
SECONDS_TO_WAIT = 60

# A log-likelihood and whether the continuation is the greedy one, the log-likelihood of a text, or
# a generated text.
Answer = tuple[float, bool] | float | str


class AnswerDatabase:
    """Database of answers keyed by the hash of their request, each written to disk immediately."""

    def __init__(self, path: Path) -> None:
        """Open the database, creating it if needed.

        Raises:
            HereticError: the file is a link, is not a database of answers, or cannot be written.
        """
        self._path = path
        if path.is_symlink():
            raise HereticError(f"{path} is a link, which is not followed; delete it and run again")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._connection = sqlite3.connect(
                path, timeout=SECONDS_TO_WAIT, isolation_level=None, check_same_thread=False
            )
            # Much faster writes, but the file may have to be deleted after a power failure.
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute("PRAGMA trusted_schema = OFF")
            # A view or trigger in place of the table could run forever.
            found = self._schema() or self._create()
            if found != [SCHEMA]:
                raise sqlite3.DatabaseError("it has other tables")

    def __contains__(self, request: str) -> bool:
        return self._find(request) is not None

    def __getitem__(self, request: str) -> Answer:
        text = self._find(request)
        if text is None:
            raise KeyError(request)
        try:
            return decode(text)
        except ValueError as error:
            raise self._unusable(error) from error

    def __setitem__(self, request: str, answer: Answer) -> None:
        with self._errors():
            self._connection.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", (request, encode(answer))
            )

    def commit(self) -> None:
        """Do nothing, as every answer is committed immediately; called by `CachingLM`."""

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _schema(self) -> list[str]:
        return [row[0] for row in self._connection.execute("SELECT sql FROM sqlite_schema")]

    def _create(self) -> list[str]:
        self._connection.execute(SCHEMA)
        return self._schema()

    def _find(self, request: str) -> object:
        with self._errors():
            row = self._connection.execute(
                "SELECT answer FROM answers WHERE request = ?", (request,)
            ).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> HereticError:
        return HereticError(
            f"cannot use the benchmark answers in {self._path} ({one_line(error)}); delete the "
            "file and run again"
        )


class CachedModel(CachingLM):  # type: ignore[misc]  # untyped
    """lm-eval model that is queried only for answers missing from a database."""

    def __init__(self, model: LM, path: Path) -> None:
        """Open the database instead of the pickle database of `CachingLM`.

        Raises:
            HereticError: see `AnswerDatabase`.
        """
        self.lm = model
        self.cache_db = str(path)
        self.dbdict = AnswerDatabase(path)
        model.set_cache_hook(self.get_cache_hook())


def encode(answer: Answer) -> str:
    """Return an answer as JSON; tuples become lists."""
    return json.dumps(answer)


def decode(text: object) -> Answer:
    """Return the answer in a JSON text.

    Raises:
        ValueError: the text is not JSON or not an answer.
    """
    try:
        value: Any = json.loads(text) if isinstance(text, str) else None
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    match value:
        case [float() as likelihood, bool() as is_greedy]:
            return likelihood, is_greedy
        case str() | float() | int() if not isinstance(value, bool):
            return value
    raise ValueError("it does not hold answers")

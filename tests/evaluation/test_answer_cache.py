"""Answers of benchmarks come back from their database as they were, and nothing in it is run."""

import math
import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from custom_tasks import write_choices
from sqlitedict import SqliteDict  # type: ignore[import-untyped]
from tiny_models import tiny_model

from heretic.benchmarks.lm_eval import answers_file, load_benchmarks, score_benchmarks
from heretic.benchmarks.scores import BenchmarkProtocol
from heretic.errors import HereticError
from heretic.evaluation.answer_cache import Answer, AnswerDatabase, decode, encode

ANSWERS: list[Answer] = [(-1.5, True), (-math.inf, False), -12.25, 0, "two\nlines \0 ☃", ""]


class Malicious:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def score(answers: Path, tasks: Path) -> dict[str, Any]:
    asked = BenchmarkProtocol(("words",), limit=3, folder=str(tasks))
    return score_benchmarks(tiny_model(), load_benchmarks(asked), asked, answers)


def requests(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        (table,) = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return [row[0] for row in connection.execute(f"SELECT * FROM {table[0]}")]


def replace_values(database: Path, value: bytes) -> None:
    """Put `value` in place of every answer, however the columns are named."""
    with closing(sqlite3.connect(database)) as connection:
        (table,) = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        column = [row[1] for row in connection.execute(f"PRAGMA table_info({table[0]})")][-1]
        connection.execute(f"UPDATE {table[0]} SET {column} = ?", (value,))
        connection.commit()


def test_pickles_in_a_shared_database_are_not_read(tmp_path: Path) -> None:
    tasks, trace = tmp_path / "tasks", tmp_path / "ran"
    write_choices(tasks, "words")
    answers = answers_file(tmp_path, "weights", tiny_model())
    score(answers, tasks)
    replace_values(answers, pickle.dumps(Malicious(trace)))
    with pytest.raises(HereticError, match=f"{answers.name}.* delete the file and run again"):
        score(answers, tasks)
    assert not trace.exists()


def test_databases_of_earlier_versions_are_not_opened(tmp_path: Path) -> None:
    tasks, trace = tmp_path / "tasks", tmp_path / "ran"
    write_choices(tasks, "words")
    answers = answers_file(tmp_path, "weights", tiny_model())
    expected = score(answers, tasks)
    old = answers.with_suffix(".db")
    with SqliteDict(str(old), autocommit=True) as pickles:
        for request in requests(answers):
            pickles[request] = Malicious(trace)
    before = old.read_bytes()
    answers.unlink()
    assert score(answers_file(tmp_path, "weights", tiny_model()), tasks) == expected
    assert not trace.exists()
    assert old.read_bytes() == before


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_keeps_its_type(tmp_path: Path, answer: Answer) -> None:
    with closing(AnswerDatabase(tmp_path / "a.sqlite")) as database:
        assert "key" not in database
        database["key"] = answer
    with closing(AnswerDatabase(tmp_path / "a.sqlite")) as database:
        assert "key" in database
        assert database["key"] == answer
        assert type(database["key"]) is type(answer)
        with pytest.raises(KeyError):
            database["other"]


@pytest.mark.parametrize(
    "text",
    [None, 5, b"x", "", "{", "null", "true", "[]", "[1.0]", "[1.0, 1]", '{"a": 1}', "[" * 10**5],
)
def test_what_is_no_answer_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(text)


def test_encoded_answers_are_json() -> None:
    assert encode((-0.5, True)) == "[-0.5, true]"


def _damage(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)


def _view(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE VIEW answers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
            "SELECT i AS request, i AS answer FROM n"
        )


def _trigger(path: Path) -> None:
    AnswerDatabase(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END"
        )


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_damage, _view, _trigger, _dangling_link, _folder])
def test_a_file_that_is_no_answer_database_is_one_line(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.sqlite"
    make(path)
    with pytest.raises(HereticError, match=r"delete .* and run again") as told:
        AnswerDatabase(path)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "elsewhere").exists()

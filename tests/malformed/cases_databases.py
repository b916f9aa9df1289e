"""Studies, warm starts and artifacts of a run, damaged or a stranger's."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from search.small_search import OBJECTIVES, STUDY, cut_off_in_a_transaction, search

from heretic.ablation.parameters import AblationParameters
from heretic.artifacts import read_json, write_json
from heretic.cli import main
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.prompts.prompt_sets import read_prompts
from heretic.report.run_reader import read_run
from heretic.search.status import read_search, search_table
from heretic.search.stored import N_LAYERS
from heretic.search.study import open_study, read_records, stored_objectives
from heretic.search.warm_start_sources import load_family_file, load_previous_search
from malformed.case import Case

DEEP = 100_000
TRIALS = 3
FAMILY = Path(__file__).parents[2] / "config" / "warm_start" / "llama.yaml"
DEEP_LIST, DEEP_OBJECT = "[" * DEEP, '{"a":' * DEEP
# Of attributes, whose texts are JSON.
NO_JSON = ["null", "5", "x", "", "[]", '{"a": 1}', "NaN", "1e999", DEEP_LIST, '"\\ud800"', "-1"]

# By table and column, values that Optuna did not write.
ODD_ROWS: dict[str, list[Any]] = {
    "trial_user_attributes.value_json": [*NO_JSON, None, b"\xff", 5],
    "study_user_attributes.value_json": [*NO_JSON, None, b"\xff"],
    "trial_params.distribution_json": [*NO_JSON, '{"name": "X", "attributes": {}}', None],
    "trial_params.param_value": ["x", None, 1e308],
    "trial_values.value": [None, "x"],
    "trial_values.value_type": ["X", None, "INF_POS", "INF_NEG"],
    "trials.state": ["X", None, 5, "RUNNING", "WAITING", "FAIL"],
    "trials.number": [None, "x", -1, 10**18],
    "trials.datetime_start": ["0001-01-01 00:00:00.000000", "x", 5, None, "9999-12-31 23:59:59.9"],
    "trials.datetime_complete": ["x", None],
    "studies.study_name": ["", "\x1b]0;x\x07", b"\xff", "x" * 100_000],
    "study_directions.direction": ["X", None, "MAXIMIZE"],
    "study_directions.objective": [None, "x", 7],
    "version_info.schema_version": [None, 1, "x"],
    "version_info.library_version": [None, 5],
    "alembic_version.version_num": ["x", "v0.0.1", None, ""],
}  # fmt: skip
ATTRIBUTE = (
    "INSERT OR REPLACE INTO study_user_attributes (study_id, key, value_json) VALUES (1, ?, ?)"
)
STATEMENTS = {
    **{f"no {table}": f"DROP TABLE {table}" for table in (
        "studies", "trials", "alembic_version", "trial_values",
    )},
    **{f"empty {t}": f"DELETE FROM {t}" for t in (
        "studies", "trials", "version_info", "alembic_version", "study_directions", "trial_values",
        "trial_params", "trial_user_attributes", "study_user_attributes",
    )},
    "endless view": "ALTER TABLE studies RENAME TO s; CREATE VIEW studies AS WITH RECURSIVE "
    "r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS study_id, 'x' || n AS study_name "
    "FROM r",
    "further view": "CREATE VIEW v AS SELECT 1",
    "view of trials": "ALTER TABLE trials RENAME TO t; CREATE VIEW trials AS SELECT t.* FROM t, "
    "t AS a, t AS b, t AS c, studies",
    "large generated column": "ALTER TABLE studies ADD COLUMN big AS (hex(zeroblob(400000000)))",
    "large name": "UPDATE studies SET study_name = hex(zeroblob(90000000))",
    "endless trigger": "CREATE TRIGGER t AFTER UPDATE ON trials BEGIN INSERT INTO trials (number) "
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r; END",
    "two of a number": "INSERT INTO trials (number, study_id, state) "
    "SELECT number, study_id, state FROM trials",
    "500 tables": "; ".join(f"CREATE TABLE t{n} (a)" for n in range(500)),
    "another user version": "PRAGMA user_version = 77",
    "an unfinished trial": "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL",
}  # fmt: skip
WHERE_ATTRIBUTES = {
    "n_trials": ['"x"', "-1", "1.5", "null", "1e999", "true", DEEP_LIST],
    "n_layers": ['"x"', "-1", "0", "1000000000", "null", "2.5", "1"],
    "objectives": [
        '"x"', "[]", "[5]", "[{}]",
        '[{"name": "x", "direction": "minimize", "best": 0, "worst": 1}]',
        '[{"name": "unanswered", "direction": "minimize", "best": 1, "worst": 1}]', DEEP_LIST,
    ],
    "in_flight": ['"x"', "[5]", "[{}]", '[{"place": "x", "sampled": {}, "since": 0}]',
                  '[{"place": 3, "sampled": {"x": []}, "since": 0}]',
                  '[{"place": 5, "sampled": {}, "since": 1e300}]'],
}  # fmt: skip
EDIT_VALUES: dict[str, list[Any]] = {
    "layers": ["x", [-1], [10**9], [1.5], 5, [[]]],
    "direction_scope": ["x", None, 5],
    "direction_index": ["x", float("nan"), float("inf"), -1.0, 99.0, None, [1], 10**400],
    "components": [None, 5, [], {}, {"x": {}}, {ATTENTION: 5}, {ATTENTION: {"weight": 1.0}}],
}
PART_VALUES: dict[str, list[Any]] = {
    "layer_min": ["x", float("-inf"), float("nan"), 7.0, None],
    "layer_max": [float("inf"), -1.0, []],
    "weight": ["x", float("nan"), -1.0, 1e308, None],
    "unknown": [1],
}


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="malformed-databases-")


@cache
def _good() -> Path:
    """A folder with the study of a finished search, and its table."""
    folder = Path(_scratch().name)
    database = folder / "study.db"
    search(database, TRIALS, max_kl=1e6)
    with open_study(database, STUDY, OBJECTIVES) as study:
        study.set_user_attr(N_LAYERS, 3)
        records, objectives = read_records(study, TRIALS), stored_objectives(study)
    write_json(
        folder / "study.json",
        {
            "n_layers": 3,
            "objectives": [each.to_dict() for each in objectives],
            "trials": [record.to_dict() for record in records],
        },
    )
    write_json(folder / "best.json", _best())
    return folder


def _best() -> dict[str, Any]:
    part = {"layer_min": 0.0, "layer_max": 1.0, "weight": 1.0}
    edit = {"direction_scope": "global", "direction_index": 1.0, "layers": None}
    whole = {**edit, "components": {ATTENTION: part, MLP: part}}
    objective = {"name": "kl_first_token", "direction": "minimize", "best": 0.0, "worst": 1.0}
    return {
        "parameters": AblationParameters.from_dict(whole).to_dict(),
        "objectives": [objective],
        "model": {"layers": 3},
    }


def cases() -> Iterator[Case]:
    """Yield every malformed study, warm start and artifact."""
    uses: dict[str, Callable[[Path], object]] = {
        "trials": lambda path: search_table(read_search(path)),
        "warm start": load_previous_search,
        "optimize": _open,
    }
    for name, damage in _damages():
        for use, action in uses.items():
            yield Case(f"{use}: {name}", partial(_damaged, damage, action))
    for name, text in _warm_starts():
        yield Case(f"warm start: {name}", partial(_start_from, text))
    for name, values in _families():
        yield Case(f"family: {name}", partial(_family, values))
    for name, path, text in _artifacts():
        yield Case(f"artifact: {name}", partial(_artifact, path, text))


def _open(database: Path) -> None:
    with open_study(database, STUDY, OBJECTIVES) as study:
        read_records(study, TRIALS)
        stored_objectives(study)
    # As a resumed search does.
    search(database, TRIALS, max_kl=1e6)


def _damaged(damage: Callable[[Path], object], use: Callable[[Path], object], folder: Path) -> None:
    database = Path(shutil.copy(_good() / "study.db", folder))
    damage(database)
    use(database)


def _damages() -> Iterator[tuple[str, Callable[[Path], object]]]:
    for place, values in ODD_ROWS.items():
        table, column = place.split(".")
        for number, value in enumerate(values):
            sql = f"UPDATE {table} SET {column} = ?"
            yield f"{place} {number} {ascii(value)[:20]}", partial(_execute, sql, (value,))
    for name, sql in STATEMENTS.items():
        yield name, partial(_script, sql)
    for key, texts in WHERE_ATTRIBUTES.items():
        for number, text in enumerate(texts):
            yield f"attribute {key} {number}", partial(_execute, ATTRIBUTE, (key, text))
    for name, change in {
        "no score": lambda r: r["scores"].clear(),
        "scores of text": lambda r: r["scores"].update(kl_first_token="x"),
        "nested scores": lambda r: r["scores"].update(kl_first_token=[1]),
        "no parameters": lambda r: r.pop("parameters"),
        "negative seconds": lambda r: r.update(seconds=-1),
        "seconds of text": lambda r: r.update(seconds="x"),
        "stages of text": lambda r: r.update(stages={"edit": "x"}),
        "layers of text": lambda r: r["parameters"].update(layers="x"),
        "infinite depth": lambda r: r["parameters"].update(direction_index=float("-inf")),
        "unknown component": lambda r: r["parameters"]["components"].update(x={}),
    }.items():
        yield f"record: {name}", partial(_change_record, change)
    yield from _files()


def _files() -> Iterator[tuple[str, Callable[[Path], object]]]:
    for size in (0, 1, 16, 100, 4096, 20_000):
        yield f"cut to {size} bytes", partial(_cut, size)
    for start in (18, 24, 100, 2000, 4096, 9000):
        yield f"noise at {start}", partial(_overwrite, start)
    yield "another database", _another
    yield "text", lambda path: path.write_text("no database " * 1000)
    yield "a folder", _folder
    yield "a link to nothing", partial(_link, "none")
    yield "a link to itself", partial(_link, "study.db")
    yield "a device", partial(_link, "/dev/zero")
    yield "a hot journal", cut_off_in_a_transaction
    yield "a journal of noise", lambda path: _journal(path).write_bytes(b"\xd9\xd5\x05\xf9" * 3000)
    yield (
        "a log without its database",
        lambda path: path.with_name("study.db-wal").write_bytes(b"\x37\x7f\x06\x82" * 1000),
    )


def _execute(sql: str, values: tuple[Any, ...], database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
        connection.commit()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            connection.execute(sql, values)
        except sqlite3.IntegrityError:  # one row is enough
            connection.execute(f"{sql} WHERE rowid = 1", values)
        connection.commit()


def _script(sql: str, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.executescript(sql)
        connection.commit()


def _change_record(change: Callable[[Any], object], database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        (text,) = connection.execute(
            "SELECT value_json FROM trial_user_attributes WHERE key = 'record'"
        ).fetchone()
        record = json.loads(text)
        change(record)
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'record'",
            (json.dumps(record),),
        )
        connection.commit()


def _cut(size: int, database: Path) -> None:
    os.truncate(database, size)


def _folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def _link(target: str, database: Path) -> None:
    database.unlink()
    database.symlink_to(target)


def _overwrite(start: int, database: Path) -> None:
    with database.open("r+b") as stream:
        stream.seek(start)
        stream.write(b"\xa5" * 700)


def _another(database: Path) -> None:
    database.unlink()
    _script("CREATE TABLE cookies (a); CREATE TABLE trials (b)", database)


def _journal(database: Path) -> Path:
    return database.with_name(f"{database.name}-journal")


def _warm_starts() -> Iterator[tuple[str, str]]:
    yield from {
        "empty": "", "deep list": DEEP_LIST, "deep object": DEEP_OBJECT, "a list": "[]",
        "empty object": "{}", "NaN": '{"n_layers": NaN}', "no UTF-8": "\udcff",
    }.items()  # fmt: skip
    for key, values in EDIT_VALUES.items():
        for number, value in enumerate(values):
            best = _best()
            best["parameters"][key] = value
            yield f"best.json {key} {number}", json.dumps(best)
    for key, values in PART_VALUES.items():
        for number, value in enumerate(values):
            best = _best()
            best["parameters"]["components"][MLP] = {
                **best["parameters"]["components"][MLP], key: value,
            }  # fmt: skip
            yield f"best.json component {key} {number}", json.dumps(best)
    for number, depth in enumerate(["x", None, 0, -3, 10**9, 2.5, True, [3]]):
        yield f"best.json depth {number}", json.dumps({**_best(), "model": {"layers": depth}})
        study = read_json(_good() / "study.json")
        yield f"study.json depth {number}", json.dumps({**study, "n_layers": depth})
    odd_lists: list[Any] = ["x", [], [5], [{}], {}, None, 5]
    for number, objectives in enumerate(odd_lists):
        study = read_json(_good() / "study.json")
        yield f"study.json objectives {number}", json.dumps({**study, "objectives": objectives})
    for number, trials in enumerate([*odd_lists, 20_000]):
        study = read_json(_good() / "study.json")
        several = study["trials"][:1] * trials if trials == 20_000 else trials
        yield f"study.json trials {number}", json.dumps({**study, "trials": several})


def _start_from(text: str, folder: Path) -> None:
    path = folder / "best.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    load_previous_search(path)


def _families() -> Iterator[tuple[str, str | bytes]]:
    good = yaml.safe_load(FAMILY.read_text(encoding="utf-8"))
    for key, values in {**EDIT_VALUES, "n_layers": [0, -1, "x", 10**9], "source": ["", 5]}.items():
        for number, value in enumerate(values):
            trial = {**good["trials"][0], key: value}
            yield f"{key} {number}", yaml.safe_dump({**good, "trials": [trial]})
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(n + 1)}: &{chr(n + 1)} [{','.join([f'*{chr(n)}'] * 9)}]\n" for n in range(97, 115)
    )
    yield "alias bomb", f"{bomb}family: *s\ntrials: *s\n"
    yield "deep list", DEEP_LIST
    yield "deep trials", f"family: x\ntrials: {'[' * 5000}"
    yield "deep blocks", "".join(f"{' ' * n}a:\n" for n in range(400))
    yield "large", "# " + "x" * 2_000_000
    yield "bad date", "family: 2024-99-99\ntrials: []\n"
    yield "bad integer", "family: !!int x\ntrials: []\n"
    yield "bad time", "family: !!timestamp x\ntrials: []\n"
    yield "code", "family: !!python/object/apply:os.system [id]\n"
    yield "recursive", "family: x\ntrials: &a [*a]\n"
    yield "empty", ""
    yield "no UTF-8", b"\xff\xfe"
    yield "NUL", b"family: \0"


def _family(text: str | bytes, folder: Path) -> None:
    path = folder / "family.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    load_family_file(path)


def _artifacts() -> Iterator[tuple[str, str, str]]:
    names = ("evaluation.json", "best.json", "study.json", "chat.json", "model/ablation.json")
    texts = {
        "empty": "", "deep list": DEEP_LIST, "deep object": DEEP_OBJECT, "a list": "[]",
        "empty object": "{}", "NaN": '{"original": NaN}', "null": "null",
    }  # fmt: skip
    for name in names:
        for text, content in texts.items():
            yield f"{name} {text}", name, content
    for text, content in texts.items():
        yield f"prompts {text}", "prompts.jsonl", content


def _artifact(name: str, text: str, folder: Path) -> None:
    """As `heretic trials`, `heretic chat`, `heretic evaluate` and the report meet it."""
    os.chdir(folder)
    run = Path("results/run")
    (run / "model").mkdir(parents=True)
    (run / "model.manifest.json").write_text("{}")
    (run / name).write_text(text)
    if name == "prompts.jsonl":
        read_prompts(run / name)
    elif name in ("chat.json", "model/ablation.json"):
        main(["chat", "run"])
    elif name == "evaluation.json":
        from heretic.report.table import run_summaries

        run_summaries(Path("results"), ["run"])
    else:
        read_run(run)

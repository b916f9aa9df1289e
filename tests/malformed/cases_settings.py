"""Configuration files, values and scorer files that are malformed."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from malformed.case import Case

BOMB = "a0: &a0 [1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
)
FILES: dict[str, bytes] = {
    "empty": b"", "NUL": b"\0", "not UTF-8": b"model: \xff\n",
    "UTF-16": "model: a".encode("utf-16"),
    "list": b"- a", "text": b"a", "number": b"5", "null": b"null", "bool": b"true",
    "deep lists": b"[" * 100_000, "deep objects": b"{a: " * 100_000,
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(1200)),
    "alias bomb": BOMB.encode(), "merge bomb": MERGES.encode(),
    "bomb in a setting": (BOMB + "bad_prompts: *a9").encode(),
    "recursive list": b"model: &a [*a]", "recursive object": b"bad_prompts: &a {dataset: *a}",
    "undefined alias": b"model: *a", "long number": b"n_trials: " + b"9" * 5000,
    "long hexadecimal number": b"n_trials: 0x" + b"f" * 5000,
    "sexagesimal number": b"n_trials: 1" + b":59" * 500,
    "impossible date": b"model: 2024-13-45", "date": b"model: 2024-01-01",
    "set": b"model: !!set {a, b}", "binary": b"model: !!binary aGVsbG8=",
    "bytes that are not text": b"model: !!binary /w==",
    "python object": b"model: !!python/object/apply:os.system [exit]",
    "keys of lists": b"? [a]\n: b", "keys of numbers": b"5: 6", "null key": b"null: 6",
    "tabs": b"\tmodel: a", "1 MB of comments": b"#" * 1_100_000,
    "100,000 keys": b"".join(b"k%d: 1\n" % n for n in range(100_000)),
    "a key of 1 MB": b"k" * 900_000 + b": 1", "escapes": b'"\\e]52;c;A\\a": 1',
    "JSON": b'{"n_trials": 1e400}', "two documents": b"a: 1\n---\nb: 2",
}  # fmt: skip
TOMLS: dict[str, bytes] = {
    "deep": b"model = " + b"[" * 10_000, "long number": b"n_trials = " + b"9" * 5000,
    "impossible date": b"model = 2024-13-45", "date": b"model = 2024-01-01",
    "not TOML": b"model: a",
    "not UTF-8": b"model = '\xff'", "nan": b"max_weight = nan", "infinite": b"max_weight = inf",
    "twice": b"seed = 1\nseed = 2", "tables": b"[[model]]\na = 1",
    "deep keys": b".".join([b"a"] * 5000) + b" = 1",
}  # fmt: skip
VALUES: dict[str, Any] = {
    "null": None, "true": True, "list": [], "object": {}, "nested": {"a": {"b": [1]}},
    "NaN": float("nan"), "infinite": float("inf"), "text NaN": "nan", "text infinite": "-inf",
    "huge": 10**5000, "large": 10**30, "text of digits": "9" * 5000, "negative": -(10**30),
    "NUL": "a\0b", "surrogate": "\ud800", "escapes": "\x1b]52;c;A\x07", "newlines": "a\nb\r\nc",
    "bidi": "\u202egpj.\u202c", "1 MB": "x" * 1_000_000, "blank": " ", "bytes": b"\xff",
    "deep": "[" * 5000, "list of 100,000": list(range(100_000)),
    "texts of 9,000": ["knee"] * 9000, "commas": "," * 50_000, "equals": "=" * 50_000,
}  # fmt: skip
KEYS = ("model", "run_name", "seed", "n_trials", "threads", "max_weight", "layer_range", "select",
        "objectives", "scorers", "bad_prompts", "max_memory", "direction_weights", "upload_to",
        "ensemble_weights", "warm_start", "trial_batch_size", "chat_template", "response_prefix",
        "max_shard_size", "trust_remote_code", "refusal_markers")  # fmt: skip
# Given as a variable and as an option too.
AS_TEXT = ("model", "n_trials", "select", "bad_prompts", "scorers")
HEAD = "from heretic.scoring import AnswerScorer, ModelScorer\n"
PROPERTY = "    @property\n    def"
CLASS = f"{HEAD}class Mine(AnswerScorer):\n    name = 'mine'\n    side = 'bad'\n"
JUDGE = "    def judge(self, prompt, answer): return 0.0\n"
PLUGINS: dict[str, bytes] = {
    "exits at import": b"import sys\nsys.exit(3)",
    "exits in silence": b"raise SystemExit",
    "exits with a text": b"raise SystemExit('no' * 1000)",
    "raises at import": b"raise RuntimeError('no\\nno')",
    "raises nothing known": b"class E(BaseException): pass\nraise Exception(E())",
    "imports what is missing": b"import no_such_module",
    "imports itself": b"import mine\nimport mine2",
    "does not compile": b"def (",
    "not UTF-8": b"x = '\xff'",
    "NUL": b"\0",
    "no class": b"x = 1",
    "a function": b"def Mine(): pass",
    "another class": b"class Mine: pass",
    "the base class": f"{HEAD}Mine = AnswerScorer".encode(),
    "abstract": CLASS.encode(),
    "needs arguments": f"{CLASS}    def __init__(self, a, b): pass\n{JUDGE}".encode(),
    "exits when made": f"{CLASS}    def __init__(self): raise SystemExit(3)\n{JUDGE}".encode(),
    "raises when made": f"{CLASS}    def __init__(self): 1 / 0\n{JUDGE}".encode(),
    "recursion when made": f"{CLASS}    def __init__(self): Mine()\n{JUDGE}".encode(),
    "direction of another kind": f"{CLASS}    direction = 'up'\n{JUDGE}".encode(),
    "direction of a list": f"{CLASS}    direction = []\n{JUDGE}".encode(),
    "side of another kind": f"{CLASS}    side = 5\n{JUDGE}".encode(),
    "direction that raises": f"{CLASS}{PROPERTY} direction(self): 1 / 0\n{JUDGE}".encode(),
    "name that exits": f"{CLASS}{PROPERTY} name(self): raise SystemExit\n{JUDGE}".encode(),
    "name of a number": f"{CLASS}    name = 5\n{JUDGE}".encode(),
    "name of blanks": f"{CLASS}    name = 'a b'\n{JUDGE}".encode(),
    "name of another score": f"{CLASS}    name = 'refusals'\n{JUDGE}".encode(),
    "deep nesting": b"x = " + b"(" * 5000,
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Files, values of every kind for settings of every kind, variables, scorers."""
    for name, content in FILES.items():
        for suffix in (".yaml", ".json"):
            yield Case(f"{suffix}: {name}", partial(_config_file, f"a{suffix}", content))
    for name, content in {**FILES, **TOMLS}.items():
        yield Case(f".toml: {name}", partial(_toml, content))
    for name, value in VALUES.items():
        for key in KEYS:
            yield Case(f"{key}: {name}", partial(_value, {key: value}))
            is_text = isinstance(value, str) and "\0" not in value and len(value) < 100_000
            if is_text and key in AS_TEXT:
                yield Case(f"HERETIC_{key}: {name}", partial(_variable, key, value))
                yield Case(f"--{key}: {name}", partial(_option, key, value))
        yield Case(f"key: {name}", partial(_value, {value if isinstance(value, str) else name: 1}))
        yield Case(f"key of a source: {name}", partial(_value, {"bad_prompts": {name: value}}))
        yield Case(f"dataset: {name}", partial(_value, {"bad_prompts": {"dataset": value}}))
        yield Case(f"scorer's settings: {name}", partial(_scorer, {"phrases": value}))
    for text in ("[", "{", "[" * 50_000, "{a: &a [*a]}", BOMB.replace("\n", " "), "[1, 2", "{a: b"):
        yield Case(f"--bad_prompts {text[:20]}", partial(_option, "bad_prompts", text))
        yield Case(f"HERETIC_BAD_PROMPTS {text[:20]}", partial(_variable, "bad_prompts", text))
        yield Case(f"HERETIC_SCORERS {text[:20]}", partial(_variable, "scorers", text))
    for variable in ("HERETIC_", "HERETIC___", "HERETIC_BAD_PROMPTS__", "HERETIC_NOPE", "HERETIC_Ä",
                     "HERETIC_BAD_PROMPTS__A__B__C", "HERETIC_" + "X" * 5000):  # fmt: skip
        yield Case(f"variable {variable[:40]}", partial(_resolve_variable, variable))
    for name, content in PLUGINS.items():
        yield Case(f"scorer: {name}", partial(_plugin, content, "mine.py:Mine"))
    for name in ("mine.py", ":", "mine.py:", ":Mine", "x" * 5000 + ".py:A", "/dev/zero:A",
                 "a\x1b.py:A", "mine.txt:Mine", ".:A", "..py:A", "mine.py:__doc__"):  # fmt: skip
        yield Case(f"scorer named {name[:20]!r}", partial(_plugin, CLASS.encode(), name))


def _runs(**sources: Any) -> None:
    from heretic.preflight import check_scores
    from heretic.settings.resolve import resolve
    from heretic.settings.schema import Settings

    found = resolve(**{"file": {}, "environ": {}, "cli": {}, **sources})
    runs: dict[str, Settings] = found.runs()
    for settings in runs.values():
        settings.prompt_sources()
        check_scores(settings)


def _config_file(name: str, content: bytes, folder: Path) -> None:
    from heretic.settings.config_files import configuration_files

    path = folder / name
    path.write_bytes(content)
    _runs(file=configuration_files(folder, [path]))


def _toml(content: bytes, folder: Path) -> None:
    from heretic.settings.config_files import configuration_files

    (folder / "config.toml").write_bytes(content)
    _runs(file=configuration_files(folder))


def _value(given: Any, folder: Path) -> None:
    os.chdir(folder)
    _runs(cli=given)
    _runs(file=given)


def _variable(key: str, value: str, folder: Path) -> None:
    os.chdir(folder)
    _runs(environ={f"HERETIC_{key.upper()}": value})


def _resolve_variable(name: str, folder: Path) -> None:
    _runs(environ={name: "1"})


def _option(key: str, value: str, folder: Path) -> None:
    from heretic.cli import main

    os.chdir(folder)
    main(["show-config", f"--{key.replace('_', '-')}={value}"])


def _scorer(given: Any, folder: Path) -> None:
    _runs(cli={"scorers": [{"scorer": "phrases", "settings": given}]})


def _plugin(content: bytes, scorer: str, folder: Path) -> None:
    os.chdir(folder)
    (folder / "mine.py").write_bytes(content)
    _runs(cli={"scorers": [{"scorer": scorer}]})

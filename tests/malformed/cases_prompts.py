"""Prompt files and saved datasets that are malformed, too large, or hold something else."""

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as arrow
from pyarrow import parquet

from malformed.case import Case

DEEP = b"[" * 100_000
TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "blank lines": b"\n\n \n",
    "NUL bytes": b"text\nWhy\x00?\n",
    "not UTF-8": b"text\n\xff\xfe\xfa\n",
    "UTF-16": "text\nWhy?\n".encode("utf-16"),
    "UTF-32": "text\nWhy?\n".encode("utf-32"),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(64),
    "deep lists": DEEP,
    "deep objects": b'{"text":' * 100_000,
    "an unclosed quote": b'text\n"Why?\n',
    "a long header": b"x" * 200_000 + b"\n1\n",
    "100,000 columns": b",".join(b"c%d" % n for n in range(100_000)) + b"\n1\n",
    "semicolons": b"text;label\nWhy?;1\n",
    "UTF-16 without a mark": "text\nWhy?\n".encode("utf-16-le"),
    "a declared separator": b"sep=;\ntext;label\nWhy?;1\n",
    "escaped quotes": b'text,label\n"Say \\"go\\" now",1\n',
    "a million quotes": b"text\n" + b'"' * 1_000_001 + b"\n",
    "a million backslashes": b'text\n"' + b"\\" * 1_000_001 + b'"\n',
    "a million quoted cells": b"text\n" + b'"a"\n' * 999_000 + b'"a" b\n',
    "objects of columns": b'{"text": {"0": "a", "1": "b"}, "b": {"2": 1}}',
    "columns of unlike length": b'{"text": ["a", "b"], "b": [1]}',
    "a deep chat as text": b'{"text": "' + b"[" * 100_000 + b'"}\n',
    "invisible characters": "text\n\u200b\n\ufeff\n".encode(),
    "tabs": b"text\tlabel\nWhy?\t1\n",
    "vertical bars": b"text|label\nWhy?|1\n",
    "another number of cells": b"text,b\n1\n1,2,3\n",
    "a column twice": b"text,text\n1,2\n",
    "a list": b"[1, 2]",
    "an object": b'{"text": "Why?"}',
    "objects of lists": b'{"text": ["a", "b"]}\n',
    "a number": b"5",
    "a long number": b"9" * 5000,
    "null": b"null",
    "NaN": b'{"text": NaN}\n',
    "a lone surrogate": b'{"text": "\\ud800"}\n',
    "one key twice": b'{"text": "a", "text": 5}\n',
    "3 million empty lists": b"[" + b"[]," * 3_100_000 + b"[]]",
    "2 million lines": b"a\n" * 2_000_000,
    "300,000 prompts": b"".join(b"%d\n" % n for n in range(300_000)),
    "one line of 20 MB": b"a" * 20_000_000,
    "only separators": b",,,,\n,,,\n",
    "carriage returns": b"text\rWhy?\r\rNow?\r",
    "escapes of terminals": b"text\n\x1b]52;c;AAAA\x07Why?\n",
}
CELLS: dict[str, Any] = {
    "number": 5, "float": 1.5, "boolean": True, "null": None, "empty list": [], "empty object": {},
    "list of numbers": [1, 2], "list of texts": ["a", "b"], "list of lists": [[["a"]]],
    "turn without content": [{"role": "user"}],
    "turn without role": [{"content": "a"}],
    "content of a number": [{"role": "user", "content": 5}],
    "content of null": [{"role": "user", "content": None}],
    "content of parts": [{"role": "user", "content": [{"type": "image"}, {"text": 5}]}],
    "role of a list": [{"role": ["user"], "content": "a"}],
    "role of null": [{"role": None, "content": "a"}],
    "turns and text": [{"role": "user", "content": "a"}, "b"],
    "unlike lists": {"role": ["user", "x"], "content": ["a"]},
    "unlike lists of three": {"role": ["user"], "content": ["a"], "x": [1, 2, 3]},
    "lists of numbers": {"role": [1], "content": [2]},
    "object of texts": {"role": "user", "content": "a"},
    "NUL": "a\0b",
    "deep content": [{"role": "user", "content": [[[[["a"]]]]]}],
}  # fmt: skip
USES = (("column", "text"), ("choices_column", "text"), ("answer_column", "text"),
        ("category_column", "text"), ("distinct", True))  # fmt: skip
FIELDS: dict[str, Mapping[str, Any]] = {
    "split of digits": {"split": "train[:" + "9" * 5000 + "]"},
    "split of 15 digits": {"split": "train[:" + "9" * 15 + "]"},
    "negative split": {"split": "train[-5:-9]"},
    "percent above 100": {"split": "train[:999%]"},
    "1,000 splits": {"split": "+".join(["train"] * 1000)},
    "no split": {"split": ""},
    "other split": {"split": "test"},
    "choices of text": {"choices_column": "text"},
    "answers of text": {"answer_column": "other"},
    "missing column": {"column": "nope"},
    "column of 1 MB": {"column": "c" * 1_000_000},
    "subjects": {"subjects": ["a"]},
    "shuffled": {"streaming": True, "shuffle_buffer": 5},
}
NAMES = ("x" * 5000, "/" + "x" * 5000, "~nobody/a.txt", "a\0b", "\ud800", "/dev/zero", "/dev/null",
         "/proc/self/mem", "/etc/shadow/x", ".", "..", "/", "http://127.0.0.1:9/x", "a/b/c/d",
         "C:\\x.txt", "-", "demo/x", "x.parquet", "x.pkl")  # fmt: skip
STATES: dict[str, Any] = {
    "no _data_files": {"_data_files": ...},
    "_data_files of text": {"_data_files": "data.arrow"},
    "_data_files of texts": {"_data_files": ["data-00000-of-00001.arrow"]},
    "_data_files empty": {"_data_files": []},
    "_data_files elsewhere": {"_data_files": [{"filename": "../../../../etc/passwd"}]},
    "_data_files absolute": {"_data_files": [{"filename": "/etc/passwd"}]},
    "_data_files missing": {"_data_files": [{"filename": "no.arrow"}]},
    "_fingerprint of a list": {"_fingerprint": [1]},
    "no _fingerprint": {"_fingerprint": ...},
    "_format_type unknown": {"_format_type": "nonsense"},
    "_format_kwargs of text": {"_format_kwargs": "x"},
    "_format_columns unknown": {"_format_columns": ["nope"]},
    "_split of a list": {"_split": [1]},
    "_split of a number": {"_split": 5},
    "_output_all_columns of text": {"_output_all_columns": "x"},
}
INFOS: dict[str, Any] = {
    "features of a list": {"features": [1]},
    "features of text": {"features": "x"},
    "no features": {"features": ...},
    "features null": {"features": None},
    "features of another type": {"features": {"text": {"dtype": "int64", "_type": "Value"}}},
    "features of an unknown type": {"features": {"text": {"dtype": "x", "_type": "Nonsense"}}},
    "features without a type": {"features": {"text": {}}},
    "features of numbers": {"features": {"text": 5}},
    "further features": {"features": {"text": {"dtype": "string", "_type": "Value"},
                                      "b": {"dtype": "string", "_type": "Value"}}},
    "splits of a number": {"splits": 5},
    "splits of a list": {"splits": [1]},
    "version of a list": {"version": [1]},
    "unknown keys": {"nonsense": 1},
    "size of text": {"size_in_bytes": "x"},
}  # fmt: skip
WHOLE: dict[str, bytes] = {
    "empty": b"", "deep": DEEP, "list": b"[]", "null": b"null", "text": b'"x"', "cut": b'{"a": ',
    "bytes": b"\xff\xfe", "object": b"{}",
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Files by suffix and content, cells, sources, saved datasets and Parquet files."""
    for suffix in (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet"):
        for name, content in TEXTS.items():
            yield Case(f"{suffix}: {name}", partial(_file, suffix, content, {}))
    for name, cell in CELLS.items():
        row = json.dumps({"text": cell}).encode() + b"\n"
        for key, value in USES:
            yield Case(f"cell: {name} as {key}", partial(_file, ".jsonl", row, {key: value}))
    for name, fields in FIELDS.items():
        for suffix in (".csv", ".parquet"):
            yield Case(f"source {suffix}: {name}", partial(_sound, suffix, fields))
    for number, name in enumerate(NAMES):
        yield Case(f"dataset named {number}: {name[:20]!r}", partial(_named, name))
    yield Case("a pipe", _pipe)
    yield Case("an 101 MB file", _large)
    for name, make in _parquet_files().items():
        yield Case(f"parquet: {name}", partial(_parquet, make, {}))
        yield Case(f"slice of parquet: {name}", partial(_parquet, make, {"split": "train[:3]"}))
    for file, changes in (("state.json", STATES), ("dataset_info.json", INFOS)):
        for name, changed in changes.items():
            change = partial(_changed, changed)
            yield Case(f"folder: {name}", partial(_folder, file, change))
        for name, content in WHOLE.items():
            yield Case(
                f"folder: {file} {name}", partial(_folder, file, partial(_replaced, content))
            )
    for name, content in {**WHOLE, "PAR1": b"PAR1", "cut": b"\xff\xff\xff\xff\x10\x01"}.items():
        yield Case(f"folder: data {name}", partial(_folder_data, content))
    splits: tuple[Any, ...] = (
        5,
        "train",
        [5],
        {"train": 1},
        ["../x"],
        ["/etc"],
        [""],
        ["."],
        ["no"],
        [],
        None,
    )
    for split in splits:
        said = json.dumps({"splits": split}).encode()
        yield Case(f"folder of splits {split!r}", partial(_splits, said))
    for name, content in WHOLE.items():
        yield Case(f"folder of splits: {name}", partial(_splits, content))


def _load(dataset: object, fields: Mapping[str, Any]) -> None:
    from heretic.prompts.sources import check_sources, load_prompts
    from heretic.settings.resolve import resolve

    given = {"bad_prompts": {"dataset": str(dataset), **fields}}
    settings = resolve({}, {}, given).settings
    sources = settings.prompt_sources()["bad_prompts"]
    check_sources({"bad_prompts": sources})
    load_prompts(sources, seed=0)


def _file(suffix: str, content: bytes, fields: Mapping[str, Any], folder: Path) -> None:
    path = folder / f"prompts{suffix}"
    path.write_bytes(content)
    _load(path, fields)


def _sound(suffix: str, fields: Mapping[str, Any], folder: Path) -> None:
    path = folder / f"prompts{suffix}"
    if suffix == ".csv":
        path.write_text("text,other\nWhy?,1\nHow?,2\n")
    else:
        parquet.write_table(arrow.table({"text": ["Why?", "How?"], "other": [1, 2]}), path)
    _load(path, fields)


def _named(name: str, folder: Path) -> None:
    os.chdir(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    _load(name, {})


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    _load(folder / "pipe.txt", {})


def _large(folder: Path) -> None:
    with (folder / "large.jsonl").open("wb") as stream:
        stream.truncate(101_000_000)
    _load(folder / "large.jsonl", {})


def _parquet_files() -> dict[str, Callable[[Path], None]]:
    def written(values: Any, **options: Any) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            parquet.write_table(arrow.table({"text": values()}), path, **options)

        return write

    return {
        "10 million rows": _ten_million_rows,
        "numbers": written(lambda: [1, 2]),
        "dates": written(lambda: arrow.array([1, 2], arrow.date32())),
        "bytes": written(lambda: [b"\xff", b"a"]),
        "invalid UTF-8": written(_invalid_texts),
        "invalid dictionary": written(lambda: _invalid_texts().dictionary_encode()),
        "large texts repeated": _repeated_text,
        "one text of 50 MB": written(lambda: ["a" * 50_000_000]),
        "no rows": written(lambda: arrow.array([], arrow.string())),
        "nulls": written(lambda: arrow.array([None, None], arrow.string())),
        "null type": written(lambda: arrow.nulls(5)),
        "deep lists": written(_deep_lists),
        "maps": written(
            lambda: arrow.array([[("a", 1)]], arrow.map_(arrow.string(), arrow.int64()))
        ),
        "unlike lists": written(lambda: [{"role": ["user", "x"], "content": ["a"]}]),
        "NUL bytes": written(lambda: ["a\0b"]),
        "cut in the middle": partial(_cut, 0.5),
        "cut at the end": partial(_cut, 0.99),
        "bytes changed": _changed_bytes,
        "footer changed": _changed_footer,
        "length of 2 GB": _long_footer,
    }


def _invalid_texts() -> Any:
    offsets = arrow.py_buffer(struct.pack("<3i", 0, 2, 4))
    return arrow.StringArray.from_buffers(2, offsets, arrow.py_buffer(b"\xff\xfeab"))


def _deep_lists() -> Any:
    kind = arrow.string()
    value: Any = "a"
    for _ in range(50):
        kind, value = arrow.list_(kind), [value]
    return arrow.array([value], kind)


def _repeated_text(path: Path) -> None:
    """A text of 1 MB in 3000 rows, which takes 1 MB in the file."""
    column = arrow.DictionaryArray.from_arrays([0] * 3000, ["a" * 1_000_000])
    parquet.write_table(arrow.table({"text": column}), path, store_schema=False)


def _ten_million_rows(path: Path) -> None:
    table = arrow.table({"text": arrow.array(["a"] * 100_000)})
    with parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(100):
            writer.write_table(table)


def _some(path: Path) -> bytearray:
    texts = [f"Why {number}?" for number in range(2000)]
    parquet.write_table(arrow.table({"text": texts}), path)
    return bytearray(path.read_bytes())


def _cut(share: float, path: Path) -> None:
    content = _some(path)
    path.write_bytes(content[: int(len(content) * share)])


def _changed_bytes(path: Path) -> None:
    content = _some(path)
    for place in range(100, 2000, 7):
        content[place] ^= 0x5A
    path.write_bytes(content)


def _changed_footer(path: Path) -> None:
    content = _some(path)
    for place in range(len(content) - 300, len(content) - 20, 5):
        content[place] ^= 0x33
    path.write_bytes(content)


def _long_footer(path: Path) -> None:
    content = _some(path)
    content[-8:-4] = struct.pack("<i", 2**31 - 1)
    path.write_bytes(content)


def _parquet(make: Callable[[Path], None], fields: Mapping[str, Any], folder: Path) -> None:
    path = folder / "prompts.parquet"
    make(path)
    _load(path, fields)


def _saved(folder: Path) -> Path:
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    datasets.Dataset.from_dict({"text": ["Why?", "How?"]}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def _changed(change: Mapping[str, Any], content: bytes) -> bytes:
    found = {**json.loads(content), **change}
    return json.dumps({key: value for key, value in found.items() if value is not ...}).encode()


def _replaced(new: bytes, content: bytes) -> bytes:
    return new


def _folder(name: str, change: Callable[[bytes], bytes], folder: Path) -> None:
    path = _saved(folder) / name
    path.write_bytes(change(path.read_bytes()))
    _load(path.parent, {})


def _folder_data(content: bytes, folder: Path) -> None:
    saved = _saved(folder)
    for path in saved.glob("*.arrow"):
        whole = bytearray(path.read_bytes())
        whole[: len(content)] = content
        path.write_bytes(whole if content else b"")
    _load(saved, {})


def _splits(content: bytes, folder: Path) -> None:
    saved = _saved(folder)
    (saved.parent / "all").mkdir()
    saved.rename(saved.parent / "all" / "train")
    (saved.parent / "all" / "dataset_dict.json").write_bytes(content)
    _load(saved.parent / "all", {})

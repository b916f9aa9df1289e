"""Prompt sets from real files, saved folders and the demo."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet

from heretic.errors import PromptError
from heretic.prompts.prompt import Prompt
from heretic.prompts.sources import (
    check_source,
    check_sources,
    load_prompts,
    local_files,
    read_source,
    read_sources,
)
from heretic.settings.prompt_sources import PromptSource


def source(dataset: Path | str, **fields: Any) -> PromptSource:
    return PromptSource(dataset=str(dataset), **fields)


def texts(dataset: Path | str, **fields: Any) -> list[str]:
    return [prompt.text for prompt in load_prompts(source(dataset, **fields), seed=0)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


UNLIKE = '{"text": {"role": ["user", "user"], "content": ["a"]}}\n'


# Files


@pytest.mark.parametrize(
    "content",
    [
        b"One\nTwo\n",
        b"One\r\nTwo\r\n",
        b"One\rTwo",
        b"\xef\xbb\xbfOne\n\n  \nTwo",
        b"\n  One \nTwo\t\nOne\n",
    ],
    ids=["plain", "CRLF", "CR", "BOM and blank lines", "stray spaces and a repeated line"],
)
def test_text_file_is_a_prompt_a_line(tmp_path: Path, content: bytes) -> None:
    assert texts(write(tmp_path / "p.txt", content)) == ["One", "Two"]


def test_text_file_keeps_unicode_and_odd_separators(tmp_path: Path) -> None:
    lines = ["Wie grüßt man? 😀", "a\u2028b", "a\x85b\x0cc", "x" * 1_000_000]
    assert texts(write(tmp_path / "p.txt", "\n".join(lines))) == lines


def test_text_file_ignores_the_column(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "p.txt", "One\n"), column="prompt") == ["One"]


def test_csv_with_quotes_line_breaks_and_words_that_look_null(tmp_path: Path) -> None:
    cells = ['"Salt, or pepper?"', '"two\r\nlines"', "None", "NA", "", "42"]
    lines = ["\ufeffid,text", *(f"{number},{cell}" for number, cell in enumerate(cells))]
    path = write(tmp_path / "p.csv", "\r\n".join(lines) + "\r\n")
    assert texts(path) == ["Salt, or pepper?", "two\nlines", "None", "NA", "42"]


def test_csv_cell_of_a_megabyte(tmp_path: Path) -> None:
    long = "long " * 250_000 + "end"
    assert texts(write(tmp_path / "p.csv", f'text\n"{long}"\nshort\n')) == [long, "short"]


def test_jsonl_with_nulls_missing_keys_and_unicode(tmp_path: Path) -> None:
    rows = [{"text": "One"}, {"text": None}, {"other": 1}, {"text": "Zwölf 😀"}, {"text": " "}]
    content = "\r\n".join(json.dumps(row) for row in rows) + "\r\n\r\n"
    assert texts(write(tmp_path / "p.jsonl", "\ufeff" + content)) == ["One", "Zwölf 😀"]


@pytest.mark.parametrize(
    "content",
    ['[{"text": "One"}, {"text": "Two"}]', '{"text": "One"}\n{"text": "Two"}\n'],
    ids=["list", "lines"],
)
def test_json_file(tmp_path: Path, content: str) -> None:
    assert texts(write(tmp_path / "p.json", content)) == ["One", "Two"]


def test_parquet_with_nulls(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    parquet.write_table(arrow.table({"q": ["One", None, "Two"], "n": [1, 2, 3]}), path)
    assert texts(path, column="q") == ["One", "Two"]


def test_answers_are_a_string_or_several(tmp_path: Path) -> None:
    rows = [
        {"q": "a", "answer": " red "},
        {"q": "b", "answer": ["red", "blue"]},
        {"q": "c", "answer": None},
        {"q": "d"},
    ]
    path = write(tmp_path / "p.jsonl", "\n".join(json.dumps(row) for row in rows))
    prompts = load_prompts(source(path, column="q", answer_column="answer"), seed=0)
    assert [prompt.answers for prompt in prompts] == [("red",), ("red", "blue"), (), ()]
    assert all(not p.answers for p in load_prompts(source(path, column="q"), seed=0))


def test_categories_are_texts_or_numbers_of_classes(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "kind": " fraud "},
        {"text": "b", "kind": 3},
        {"text": "c", "kind": None},
        {"text": "d", "kind": " "},
        {"text": "e"},
        {"text": "a", "kind": "theft"},
    ]
    path = write(tmp_path / "p.jsonl", "\n".join(json.dumps(row) for row in rows))
    prompts = load_prompts(source(path, category_column="kind"), seed=0)
    # A repeated prompt keeps its first category.
    assert [prompt.category for prompt in prompts] == ["fraud", "3", None, None, None]
    assert all(p.category is None for p in load_prompts(source(path), seed=0))


def test_a_prompt_of_the_demo_has_its_task_as_category() -> None:
    prompts = load_prompts(PromptSource(dataset="demo", split="bad_holdout_prompts"), seed=0)
    makes = [prompt for prompt in prompts if " make " in prompt.text]
    assert makes
    assert {prompt.category for prompt in makes} == {"make"}
    assert all(prompt.category for prompt in prompts)


def test_repeated_prompt_keeps_its_first_answers(tmp_path: Path) -> None:
    rows = [{"text": "a", "answer": "red"}, {"text": " a", "answer": "blue"}]
    path = write(tmp_path / "p.jsonl", "\n".join(json.dumps(row) for row in rows))
    prompts = load_prompts(source(path, answer_column="answer"), seed=0)
    assert prompts == [Prompt("a", answers=("red",))]


def test_prefix_suffix_and_system_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", " One \n")
    chosen = source(path, prefix="Q: ", suffix="\nA:", system_prompt="Be brief.")
    assert load_prompts(chosen, seed=0) == [Prompt("Q: One\nA:", "Be brief.")]


# Splits


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(10)),
        ("train[:4]", range(4)),
        ("train[4:]", range(4, 10)),
        ("train[-3:]", range(7, 10)),
        ("train[2:4]+train[6:7]", [2, 3, 6]),
        ("train[:25%]", range(2)),
        ("train[50%:]", range(5, 10)),
        ("train[8:99]", range(8, 10)),
    ],
)
def test_slices_mean_what_datasets_means(
    tmp_path: Path, split: str, expected: range | list[int]
) -> None:
    import datasets

    path = write(tmp_path / "p.txt", "".join(f"row {n}\n" for n in range(10)))
    assert texts(path, split=split) == [f"row {n}" for n in expected]
    reference = datasets.Dataset.from_dict({"n": list(range(10))})
    reference.save_to_disk(str(tmp_path / "saved"))
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(
        "text", data_files={"train": str(path)}, split=split, cache_dir=cache
    )
    assert texts(path, split=split) == loaded["text"][:]


@pytest.mark.parametrize("split", ["train[", "train[1]", "train[a:b]", "", "train[:400%]", "a b"])
def test_malformed_split(tmp_path: Path, split: str) -> None:
    path = write(tmp_path / "p.txt", "One\n")
    with pytest.raises(PromptError, match=r"not valid; use the form train"):
        texts(path, split=split)


def test_a_file_is_not_shuffled_in_silence(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "One\n")
    with pytest.raises(PromptError, match="remove shuffle_buffer"):
        texts(path, streaming=True, shuffle_buffer=9)


def test_unknown_split_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"has no split 'test'; it has train$"):
        texts(write(tmp_path / "p.txt", "One\n"), split="test")


# Saved folders


def test_saved_dataset_and_saved_dictionary(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "n": [1, 2, 3]})
    two = datasets.Dataset.from_dict({"text": ["d"], "n": [4]})
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(str(tmp_path / "both"))
    assert texts(tmp_path / "one", split="train[1:]") == ["b", "c"]
    assert texts(tmp_path / "both", split="test+train[:1]") == ["d", "a"]
    facts = read_source(source(tmp_path / "one"), seed=0).facts
    assert facts["origin"]["fingerprint"]
    assert local_files(source(tmp_path / "one")) == [tmp_path / "one" / "state.json"]
    assert len(local_files(source(tmp_path / "both"))) == 2
    with pytest.raises(PromptError, match=r"no split 'valid'; it has train, test"):
        texts(tmp_path / "both", split="valid")
    with pytest.raises(PromptError, match=r"no column 'q'; its columns are: text, n"):
        texts(tmp_path / "one", column="q")
    with pytest.raises(PromptError, match="has int in column 'n' where text is needed"):
        texts(tmp_path / "one", column="n")


def test_damaged_saved_dataset(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(PromptError, match="cannot be read"):
        texts(tmp_path / "saved")


# The demo


def test_demo_set_follows_the_seed_and_has_answers() -> None:
    chosen = source("demo", split="bad_prompts")
    first, again, other = (load_prompts(chosen, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert all(prompt.answers for prompt in first)
    assert any(prompt.system for prompt in first)
    part = load_prompts(source("demo", split="bad_prompts[:5]"), seed=0)
    assert part == first[:5]


def test_demo_set_follows_what_is_planted() -> None:
    chosen = source("demo", split="bad_prompts")
    dishes, tools = (
        read_sources([chosen], seed=0, planted=planted)
        for planted in ("dish_of_material", "tool_of_fabric")
    )
    assert dishes.prompts == load_prompts(chosen, seed=0)
    assert not {prompt.text for prompt in dishes.prompts} & {
        prompt.text for prompt in tools.prompts
    }
    assert tools.facts["sources"][0]["origin"] == {"seed": "0", "planted": "tool_of_fabric"}


def test_demo_needs_no_slow_import() -> None:
    code = """
import sys
from heretic.prompts.sources import load_prompts, check_source
from heretic.settings.prompt_sources import built_in_source
source = built_in_source("good_prompts", "demo")
check_source("good_prompts", source)
assert load_prompts(source, seed=0)
slow = {"datasets", "huggingface_hub", "torch", "pyarrow", "pandas"} & set(sys.modules)
sys.exit(f"imported {slow}" if slow else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# What is wrong is said in one line


@pytest.mark.parametrize(
    ("name", "content", "fields", "words"),
    [
        ("p.txt", "", {}, "is empty; write at least one prompt"),
        ("p.txt", "\n \n", {}, "gives no prompt"),
        ("p.txt", "One\n", {"split": "train[5:]"}, "gives no prompt"),
        ("p.txt", "One\n", {"answer_column": "a"}, "is plain text and has no column 'a'"),
        ("p.txt", b"One\ncaf\xe9\n", {}, "line 2 is not UTF-8"),
        (
            "p.txt",
            "One".encode("utf-16"),
            {},
            "is UTF-16; save it as UTF-8, or set",
        ),
        ("p.xls", "a\tb\n", {}, "unsupported suffix '.xls'"),
        ("p.csv", "a,b\n1,2\n", {}, "no column 'text'; its columns are: a, b"),
        ("p.csv", "text\n", {}, "gives no prompt"),
        ("p.csv", "\n\n", {}, "no column 'text'; its columns are: none"),
        ("p.csv", "text\nSalt, or pepper?\n", {}, "in double quotes"),
        ("p.csv", "text,text\na,b\n", {}, "two columns 'text'"),
        ("p.jsonl", '{"text": "a"}\n{"text": \n', {}, "line 2 is not valid JSON"),
        ("p.jsonl", '"a"\n', {}, "line 1 is not a JSON object but str"),
        ("p.jsonl", '{"q": "a"}\n', {}, "no column 'text'; its columns are: q"),
        ("p.jsonl", '{"text": 5}\n', {}, "row 1 .* has int in column 'text'"),
        ("p.jsonl", '{"text": "\\ud83d"}\n', {}, "surrogate"),
        ("p.jsonl", '{"text": "a"}\n', {"answer_column": "b"}, "no column 'b'"),
        ("p.jsonl", '{"text": "a", "b": [1]}\n', {"answer_column": "b"}, "has int in column 'b'"),
        ("p.jsonl", '{"text": "a"}\n', {"category_column": "b"}, "no column 'b'"),
        ("p.jsonl", '{"text": "a", "b": []}\n', {"category_column": "b"}, "has list in column"),
        ("p.json", '{"text": "a"}', {}, "must hold a JSON list of texts or objects"),
        ("p.json", "[" * 100_000, {}, "is not valid JSON"),
        ("p.parquet", b"PAR1 no more", {}, "is not a readable Parquet file"),
        ("p.csv", "text;label\na;b\n", {}, 'semicolons; set `separator: ";"` in'),
        ("p.csv", "text\tlabel\na\tb\n", {}, "by tabs; set `separator: tab` in its prompt set"),
        (
            "p.tsv",
            "text,label\na,b\n",
            {},
            'commas; set `separator: ","`.* save it with tabs',
        ),
        ("p.txt", "a\0b", {}, "row 1 of .* has a NUL byte"),
        ("p.txt", "a\n" * 1_100_000, {}, "has 1,100,000 rows, of which at most"),
        ("p.txt", "a\n" * 100_001, {}, "gives 100,001 rows.*set a slice in `split`"),
        ("p.jsonl", UNLIKE, {}, "a chat in column 'text' whose parts differ in length"),
        ("p.jsonl", '{"text": "a"}\n', {"split": "train[:" + "9" * 20 + "]"}, "is not valid"),
    ],
)
def test_bad_file(
    tmp_path: Path, name: str, content: str | bytes, fields: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(PromptError, match=words) as caught:
        load_prompts(source(path, **fields), seed=0)
    assert "\n" not in str(caught.value)
    with pytest.raises(PromptError, match=words) as preflight:
        check_source("bad_prompts", source(path, **fields))
    assert str(preflight.value) == f"bad_prompts: {caught.value}"


def test_tsv(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", 'label\ttext\n1\tOne, two\n2\t"a\tb"\n')
    assert texts(path) == ["One, two", "a\tb"]


def test_a_file_that_is_too_large_or_no_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "p.jsonl").open("wb") as stream:
        stream.truncate(100_000_001)
    with pytest.raises(PromptError, match="has 100 MB, more than the maximum of 100"):
        check_source("bad_prompts", source(tmp_path / "p.jsonl"))
    with pytest.raises(PromptError, match="is not a regular file"):
        check_source("bad_prompts", source("/dev/zero"))


def _parquet_of(path: Path, rows: int, *, group: int) -> Path:
    table = arrow.table({"text": [f"Why {number}?" for number in range(rows)]})
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_a_slice_of_a_parquet_file_reads_its_row_groups_alone(tmp_path: Path) -> None:
    path = _parquet_of(tmp_path / "p.parquet", 5000, group=1000)
    content = bytearray(path.read_bytes())
    # Damage beyond the second row group is not seen.
    start = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    found = texts(path, split="train[998:1002]+train[3:1]+train[:1]")
    assert found == ["Why 998?", "Why 999?", "Why 1000?", "Why 1001?", "Why 0?"]
    with pytest.raises(PromptError, match="is not a readable Parquet file"):
        texts(path)


def test_ten_million_rows_in_39_kilobytes_are_refused_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    table = arrow.table({"text": ["a"] * 100_000})
    with parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(100):
            writer.write_table(table)
    assert path.stat().st_size < 100_000
    with pytest.raises(PromptError, match="gives 10,000,000 rows, of which at most 100,000"):
        check_source("bad_prompts", source(path))
    with pytest.raises(PromptError, match="has 10,000,000 rows, of which at most 1,000,000"):
        check_source("bad_prompts", source(path, split="train[:5]", distinct=True))
    assert texts(path, split="train[:5]") == ["a"]


def test_parquet_with_text_that_is_none(tmp_path: Path) -> None:
    buffers = [arrow.py_buffer(part) for part in (b"\0\0\0\0\2\0\0\0", b"\xff\xfe")]
    table = arrow.table({"text": arrow.StringArray.from_buffers(1, *buffers)})
    parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(PromptError, match="UTF"):
        check_source("bad_prompts", source(tmp_path / "p.parquet"))


def test_parquet_without_the_column(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    parquet.write_table(arrow.table({"q": ["One"]}), path)
    with pytest.raises(PromptError, match=r"no column 'text'; its columns are: q;"):
        check_source("bad_prompts", source(path))


@pytest.mark.parametrize(
    ("dataset", "fields", "words"),
    [
        ("./missing", {}, "file not found: ./missing"),
        ("~/missing/set", {}, "file not found"),
        ("~nobody-of-that-name/set", {}, "file not found"),
        ("/missing.jsonl", {}, "file not found"),
        ("missing.txt", {}, "file not found: missing.txt"),
        ("no/hub/id", {}, "neither a local file or folder nor a hub id"),
        ("two words", {}, "neither a local file or folder nor a hub id"),
        ("owner/name", {"split": "train[:"}, "is not valid"),
        ("owner/name", {"streaming": True}, r"must specify the rows to read, like train\[:200\]"),
        ("owner/name", {"streaming": True, "split": "train[:5%]"}, "must specify the rows"),
        ("owner/name", {"streaming": True, "split": "train[-5:]"}, "must specify the rows"),
        ("demo", {"split": "train"}, "the demo has no split 'train'; it has good_prompts"),
    ],
)
def test_preflight_needs_no_network(dataset: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PromptError, match=words) as caught:
        check_source("good_prompts", source(dataset, **fields))
    assert str(caught.value).startswith("good_prompts: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["mlabonne/harmless_alpaca", "squad", "o/name-v0.1"])
def test_preflight_leaves_hub_ids_to_the_job(dataset: str) -> None:
    check_source("good_prompts", source(dataset))


def test_preflight_of_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="holds no dataset written by `save_to_disk`"):
        check_source("good_prompts", source(tmp_path))


def test_preflight_of_a_saved_dataset_reads_its_descriptions(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_dict({"text": ["a"], "n": [1]})
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "both"))
    # Nothing but the descriptions is read.
    for path in tmp_path.rglob("*.arrow"):
        path.unlink()
    for name, split in (("one", "train"), ("both", "train+test[:1]")):
        check_source("good_prompts", source(tmp_path / name, split=split))
    advice = {
        "no split 'valid'; it has train, test": {"split": "valid"},
        "no column 'q'; its columns are: text, n": {"column": "q"},
        "no column 'a'; its columns": {"answer_column": "a"},
    }
    for words, fields in advice.items():
        with pytest.raises(PromptError, match=f"good_prompts: folder .*both has {words}"):
            check_source("good_prompts", source(tmp_path / "both", **fields))
    with pytest.raises(PromptError, match="no split 'test'; it has train"):
        check_source("good_prompts", source(tmp_path / "one", split="test"))
    (tmp_path / "one" / "dataset_info.json").write_text("{")
    with pytest.raises(PromptError, match=r"cannot be read .* save the dataset again"):
        check_source("good_prompts", source(tmp_path / "one"))


def test_preflight_of_all_sources(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", "How do I bake?\nHow do I sew?\n")
    bad = write(tmp_path / "bad.txt", "how do  I SEW?\n")
    start = source(good, split="train[:1]")
    check_sources({"good_prompts": [start], "bad_prompts": [source(bad)]})
    with pytest.raises(PromptError, match=r"share 1 prompt \(\"How do I sew\?\"\)"):
        check_sources({"good_prompts": [source(good)], "bad_prompts": [source(bad)]})
    with pytest.raises(PromptError, match="share 1 prompt"):
        check_sources({"good_prompts": [start, source(good)], "bad_prompts": [source(bad)]})
    with pytest.raises(PromptError, match=r"bad_prompts: file not found"):
        check_sources({"good_prompts": [start], "bad_prompts": [source(bad), source("./none")]})
    hub = source("owner/name")
    with pytest.raises(PromptError, match="good_prompts and bad_prompts are the same prompts"):
        check_sources({"good_prompts": [hub], "bad_prompts": [hub]})
    contrast = source("owner/name", system_prompt="Refuse.")
    check_sources({"good_prompts": [hub], "bad_prompts": [contrast]})


# Several sources


def test_several_sources_are_joined_in_order_without_repetitions(tmp_path: Path) -> None:
    one = source(write(tmp_path / "a.txt", "One\nTwo\n"))
    two = source(write(tmp_path / "b.csv", "q\nTwo\nThree\n"), column="q")
    assert [prompt.text for prompt in load_prompts([one, two], seed=0)] == ["One", "Two", "Three"]
    facts = read_sources([one, two], seed=0).facts["sources"]
    assert [(fact["source"]["dataset"], fact["count"]) for fact in facts] == [
        (one.dataset, 2),
        (two.dataset, 2),
    ]
    assert all(fact["origin"]["sha256"] for fact in facts)
    assert local_files(one) + local_files(two) == [tmp_path / "a.txt", tmp_path / "b.csv"]


def test_a_source_that_gives_nothing_is_named(tmp_path: Path) -> None:
    one = source(write(tmp_path / "a.txt", "One\n"))
    with pytest.raises(PromptError, match=r"b\.txt.* gives no prompt"):
        load_prompts([one, source(write(tmp_path / "b.txt", " \n"))], seed=0)


# Chats


CHATS: list[Any] = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": " Why? "},
    ],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
    [{"role": "assistant", "content": "Nobody asked."}],
    [{"role": "user", "content": None}],
    [],
    None,
]
ASKED = [Prompt("Why?", "Be brief."), Prompt("What is this?")]


def test_chats_give_the_last_user_turn_and_the_system_prompt(tmp_path: Path) -> None:
    rows = [{"messages": chat} for chat in CHATS]
    path = write(tmp_path / "p.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert load_prompts(source(path, column="messages"), seed=0) == ASKED
    own = source(path, column="messages", system_prompt="Refuse.", prefix="Q: ")
    assert load_prompts(own, seed=0)[0] == Prompt("Q: Why?", "Refuse.")


def test_chats_of_the_other_layout(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Why?"}]
    path = write(tmp_path / "p.jsonl", json.dumps({"conversations": turns}))
    assert load_prompts(source(path, column="conversations"), seed=0) == ASKED[:1]


def test_chats_in_parquet_and_in_a_saved_folder(tmp_path: Path) -> None:
    import datasets

    plain = [chat for chat in CHATS if chat and isinstance(chat[0]["content"], str)]
    table = arrow.table({"prompt": plain})
    parquet.write_table(table, tmp_path / "p.parquet")
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    turn = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    features = datasets.Features({"prompt": datasets.Sequence(turn)})
    by_column = [{key: [turn[key] for turn in chat] for key in turn} for chat in plain]
    columns = datasets.Dataset.from_dict({"prompt": by_column}, features=features)
    columns.save_to_disk(str(tmp_path / "columns"))
    for name in ("p.parquet", "saved", "columns"):
        assert load_prompts(source(tmp_path / name, column="prompt"), seed=0) == ASKED[:1], name


@pytest.mark.parametrize("cell", [["a", "b"], [{"text": "a"}], {"role": "user"}])
def test_a_list_that_is_no_chat_is_refused(tmp_path: Path, cell: Any) -> None:
    path = write(tmp_path / "p.jsonl", json.dumps({"text": cell}))
    with pytest.raises(PromptError, match="where a text or a chat is needed"):
        texts(path)


# Questions with choices


QUESTIONS = [
    {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "algebra"},
    {"question": "Is law old?", "choices": ["Yes", "No"], "answer": 0, "subject": "law"},
    {"question": "1 + 1?", "choices": ["2", "3"], "answer": 0, "subject": "algebra"},
]


def questions(tmp_path: Path, **fields: Any) -> PromptSource:
    lines = "\n".join(json.dumps(row) for row in QUESTIONS)
    return source(
        write(tmp_path / "q.jsonl", lines),
        column="question",
        choices_column="choices",
        **fields,
    )


def test_choices_follow_the_question_and_the_answer_is_the_right_one(tmp_path: Path) -> None:
    prompts = load_prompts(questions(tmp_path, answer_column="answer", suffix="\nAnswer:"), seed=0)
    assert prompts[0] == Prompt("2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:", answers=("4",))
    assert prompts[1] == Prompt("Is law old?\nA. Yes\nB. No\nAnswer:", answers=("Yes",))


def test_subjects_are_selected_before_the_slice(tmp_path: Path) -> None:
    chosen = questions(tmp_path, subjects=["algebra"], split="train[1:]")
    assert [p.text[:6] for p in load_prompts(chosen, seed=0)] == ["1 + 1?"]
    both = questions(tmp_path, subjects=["algebra", "law"])
    assert len(load_prompts(both, seed=0)) == 3
    with pytest.raises(PromptError, match="no row of subject 'logic'; its subjects are: algebra"):
        load_prompts(questions(tmp_path, subjects=["law", "logic"]), seed=0)


@pytest.mark.parametrize("choices", ["3", [], ["3"], None, [3, 4]])
def test_choices_that_are_none_are_refused(tmp_path: Path, choices: Any) -> None:
    path = write(tmp_path / "q.jsonl", json.dumps({"text": "2 + 2?", "choices": choices}))
    with pytest.raises(PromptError, match=r"row 1 .* in column 'choices'"):
        texts(path, choices_column="choices")


# Distinct and shortened prompts


def test_slices_of_a_distinct_source_share_no_prompt(tmp_path: Path) -> None:
    lines = ["One", "Two", "ONE ", "Three", " two", "Four"]
    path = write(tmp_path / "p.txt", "\n".join(lines))
    assert set(texts(path, split="train[:3]")) & set(texts(path, split="train[3:]")) == set()
    assert texts(path, split="train[:2]", distinct=True) == ["One", "Two"]
    assert texts(path, split="train[2:]", distinct=True) == ["Three", "Four"]


def test_a_distinct_source_looks_into_the_other_splits(tmp_path: Path) -> None:
    import datasets

    train = datasets.Dataset.from_dict({"text": ["One", "Two", "one"]})
    test = datasets.Dataset.from_dict({"text": ["TWO", "Three"]})
    other = datasets.Dataset.from_dict({"label": [1]})
    parts = datasets.DatasetDict({"train": train, "test": test, "labels": other})
    parts.save_to_disk(str(tmp_path / "both"))
    assert texts(tmp_path / "both", split="test", distinct=True) == ["Three"]
    assert texts(tmp_path / "both", split="train[:2]+test[:1]", distinct=True) == [
        "One",
        "Two",
        "Three",
    ]
    train.save_to_disk(str(tmp_path / "one"))
    assert texts(tmp_path / "one", distinct=True) == ["One", "Two"]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, "one two three"), (99, "one two three"), (13, "one two three"), (12, "one two"),
     (8, "one two"), (7, "one two"), (2, "on")],
)  # fmt: skip
def test_long_texts_are_cut_between_words(tmp_path: Path, length: int, expected: str) -> None:
    path = write(tmp_path / "p.txt", " one two three\n")
    assert texts(path, max_characters=length, suffix="!") == [f"{expected}!"]


# Facts


def test_facts_name_the_source_and_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "One\n")
    facts = read_source(source(path), seed=0).facts
    assert facts["source"]["dataset"] == str(path)
    assert facts["source"]["split"] == "train"
    before = facts["origin"]["sha256"]
    write(path, "Two\n")
    assert read_source(source(path), seed=0).facts["origin"]["sha256"] != before

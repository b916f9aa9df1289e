"""Prompt files in other dialects and encodings: what they contain, or which key to set."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from heretic.errors import PromptError
from heretic.prompts.prompt import Prompt
from heretic.prompts.sources import check_source, load_prompts
from heretic.settings.prompt_sources import PromptSource

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}]


def loaded(path: Path, **fields: Any) -> list[Prompt]:
    return load_prompts(PromptSource(dataset=str(path), **fields), seed=0)


def texts(path: Path, **fields: Any) -> list[str]:
    return [prompt.text for prompt in loaded(path, **fields)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "separator", "character"),
    [("p.csv", ";", ";"), ("p.csv", "tab", "\t"), ("p.csv", "\\t", "\t"), ("p.csv", "|", "|"),
     ("p.csv", "~", "~"), ("p.tsv", ",", ",")],
)  # fmt: skip
def test_the_separator_of_cells(tmp_path: Path, name: str, separator: str, character: str) -> None:
    path = write(tmp_path / name, f'id{character}text\n1{character}"Why{character} how?"\n')
    assert texts(path, separator=separator) == [f"Why{character} how?"]


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("p.csv", "text;answer\nHow?;a\n", '";"'),
        ("p.csv", "question;answer\nHow?;a\n", '";"'),
        ("p.csv", "Text ; answer\nHow?;a\n", '";"'),
        ("p.csv", "text|answer, long\nHow?|a\n", '"|"'),
        ("p.csv", "text\tanswer\nHow?\ta\n", "tab"),
        ("p.tsv", "text;answer\nHow?;a\n", '";"'),
    ],
)
def test_another_separator_is_named_with_the_key_to_set(
    tmp_path: Path, name: str, content: str, key: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(PromptError) as error:
        check_source("bad_prompts", PromptSource(dataset=str(path)))
    assert f"set `separator: {key}` in its prompt set" in str(error.value)


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;\r"])
def test_a_line_that_declares_the_separator(tmp_path: Path, first: str) -> None:
    path = write(tmp_path / "p.csv", f"{first}\ntext;answer\nHow, then?;a\n")
    assert texts(path) == ["How, then?"]
    assert texts(path, separator=";") == ["How, then?"]
    with pytest.raises(PromptError, match=r"declares the separator ';' .* `separator: tab`"):
        texts(path, separator="tab")


@pytest.mark.parametrize("separator", [";;", "a", "1", '"', "\\", " x", "é"])
def test_a_separator_is_one_character_of_punctuation(separator: str) -> None:
    with pytest.raises(ValidationError, match="a separator must be `tab` or one punctuation"):
        PromptSource(dataset="p.csv", separator=separator)


def test_an_empty_separator_and_encoding_mean_the_default() -> None:
    source = PromptSource(dataset="p.csv", separator="", encoding="")
    assert (source.separator, source.encoding) == (None, None)
    tab = PromptSource(dataset="p.csv", separator="tab")
    assert PromptSource(**tab.model_dump()) == tab


@pytest.mark.parametrize("separator", [",", ";"])
def test_backslash_escaped_quotes(tmp_path: Path, separator: str) -> None:
    lines = [
        ("text", "answer"),
        (r'"He said \"go\" now"', "a"),
        (r'"\"Go\", he said"', r'"b\\"'),
        (r'"C:\new \\ \"x\" ""y"""', "c"),
        ("plain", '"\nd"'),
    ]
    content = "\n".join(separator.join(line) for line in lines)
    path = write(tmp_path / "p.csv", content + "\n")
    prompts = loaded(path, separator=separator, answer_column="answer")
    assert [prompt.text for prompt in prompts] == [
        'He said "go" now',
        '"Go", he said',
        r'C:\new \ "x" "y"',
        "plain",
    ]
    assert [prompt.answers for prompt in prompts] == [("a",), ("b\\",), ("c",), ("d",)]


def test_a_separator_after_an_escaped_quote(tmp_path: Path) -> None:
    """With doubled quotes, the row would have three cells."""
    path = write(tmp_path / "p.csv", 'text,answer\n"He said \\", and left",a\n')
    assert texts(path) == ['He said ", and left']


def test_a_backslash_is_kept_where_quotes_are_doubled(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'text,answer\n"C:\\",a\n"He said ""go\\""",b\n"a\\n",c\n')
    assert texts(path) == ["C:\\", 'He said "go\\"', "a\\n"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('text,a\nfine,1\n"go" he said,2\n', "line 3 has a quoted cell that continues after"),
        ('text,a\nfine,1\n"go he said,2\n', "line 3 has a quoted cell that is not closed"),
        ('text,a\n"go\\" he" said,2\n', "line 2 has a quoted cell that continues after"),
    ],
)
def test_a_cell_with_unclear_quotes_is_refused(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        texts(write(tmp_path / "p.csv", content))


def test_quotes_inside_of_an_unquoted_cell(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "p.csv", 'id,text\n1,Say "go"\n')) == ['Say "go"']


@pytest.mark.parametrize("header", [" text ,answer", '" text",answer', "id, text"])
def test_blanks_around_the_names_of_a_header(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "p.csv", f"{header}\nHow?,How?\n")
    assert texts(path) == ["How?"]


def test_the_exact_name_wins_and_blanks_may_be_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "a, text\nb,How?\n")
    assert texts(path, column=" text") == ["How?"]


def test_a_header_with_a_line_break(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", '"a\nb",text\n1,How?\n')
    assert texts(path) == ["How?"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "Text,Answer\nHow?,a\n"),
        ("p.jsonl", '{"Text": "How?"}\n'),
        ("p.json", '{"Text": ["How?"]}'),
    ],
)
def test_a_column_that_differs_in_case_is_named(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(PromptError, match=r"no column 'text', but a column 'Text'; .* use 'Text'"):
        texts(path)
    assert texts(path, column="Text") == ["How?"]


@pytest.mark.parametrize(
    ("encoding", "key"),
    [
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
    ],
)
@pytest.mark.parametrize("text", ["How?", "你好吗。请告诉我怎么做面包。"])
def test_a_wide_encoding_is_named_with_the_key_to_set(
    tmp_path: Path, encoding: str, key: str, text: str
) -> None:
    path = write(tmp_path / "p.txt", f"{text}\n{text * 2}\n".encode(encoding))
    with pytest.raises(PromptError, match=f"set `encoding: {key}` in its prompt set"):
        texts(path)
    assert texts(path, encoding=key) == [text, text * 2]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac-roman"])
def test_an_encoding_of_one_byte(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "p.csv", "text\nUn café s'il vous plaît\n".encode(encoding))
    with pytest.raises(PromptError, match=r"line 2 is not UTF-8; .* set `encoding`"):
        texts(path)
    assert texts(path, encoding=encoding) == ["Un café s'il vous plaît"]


def test_a_file_that_is_not_in_its_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", b"Hi\ncaf\xe9\n")
    with pytest.raises(PromptError, match="line 2 is not shift_jis; correct `encoding`"):
        texts(path, encoding="shift_jis")


@pytest.mark.parametrize("encoding", ["no-such", "base64", "a\0b"])
def test_an_unknown_encoding(encoding: str) -> None:
    with pytest.raises(ValidationError, match="not an encoding known to Python"):
        PromptSource(dataset="p.txt", encoding=encoding)


@pytest.mark.parametrize(
    ("dataset", "fields", "words"),
    [
        ("p.txt", {"separator": ";"}, "applies only to .csv and .tsv"),
        ("p.jsonl", {"separator": ";"}, "applies only to .csv and .tsv"),
        ("p.parquet", {"encoding": "utf-16"}, "applies only to text files"),
        (".", {"separator": ";"}, "applies only to .csv and .tsv"),
        (".", {"encoding": "utf-16"}, "applies only to text files"),
        ("demo", {"separator": ";", "split": "bad_prompts"}, "is built in, but separator"),
        ("demo", {"encoding": "utf-16", "split": "bad_prompts"}, "is built in, but encoding"),
        ("owner/name", {"encoding": "utf-16"}, "is a hub dataset, but encoding"),
    ],
)
def test_options_that_a_source_does_not_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    fields: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("p.txt", "p.jsonl", "p.parquet"):
        write(tmp_path / name, "{}\n")
    source = PromptSource(dataset=dataset, **fields)
    with pytest.raises(PromptError, match=words):
        load_prompts(source, seed=0)
    with pytest.raises(PromptError, match=f"bad_prompts: .*{words}"):
        check_source("bad_prompts", source)


@pytest.mark.parametrize(
    "value",
    [
        ["One", "Two"],
        [{"text": "One"}, {"text": "Two"}],
        {"text": ["One", "Two"], "answer": ["a", "b"]},
        {"text": {"0": "One", "5": "Two"}, "answer": {"0": "a"}},
    ],
    ids=["texts", "objects", "columns", "columns of named rows"],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json(tmp_path: Path, value: Any, indent: int | None) -> None:
    path = write(tmp_path / "p.json", json.dumps(value, indent=indent))
    assert texts(path) == ["One", "Two"]


def test_columns_of_json_stay_aligned(tmp_path: Path) -> None:
    for answer in (["a", None], {"x": "a"}):
        text: Any = {"x": "One", "y": "Two"} if isinstance(answer, dict) else ["One", "Two"]
        path = write(tmp_path / "p.json", json.dumps({"answer": answer, "text": text}))
        prompts = loaded(path, answer_column="answer")
        assert prompts == [Prompt("One", answers=("a",)), Prompt("Two")]


@pytest.mark.parametrize(
    ("value", "fields", "words"),
    [
        ({"text": ["a"], "b": []}, {"answer_column": "b"}, "columns that differ in length"),
        ({"text": ["a"], "b": {"0": 1}}, {"answer_column": "b"}, "columns that differ in length"),
        (["a"], {"answer_column": "b"}, "is a list of texts and has no column 'b'"),
        (["a", {"text": "b"}], {}, "item 1 is not a JSON object but str"),
        ({"data": [{"text": "a"}]}, {}, "no column 'text'; its columns are: data"),
        ({}, {}, "must hold a JSON list"),
    ],
)
def test_other_json(tmp_path: Path, value: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        texts(write(tmp_path / "p.json", json.dumps(value)), **fields)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("value", [["One", "Two"], [{"text": "One"}, {"text": "Two"}]])
def test_json_lines_that_hold_one_list(tmp_path: Path, value: Any, indent: int | None) -> None:
    path = write(tmp_path / "p.jsonl", "\n" + json.dumps(value, indent=indent) + "\n")
    assert texts(path) == ["One", "Two"]


@pytest.mark.parametrize(
    "chat", [CHAT, [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "How?"}]]
)
def test_a_chat_as_json_text(tmp_path: Path, chat: Any) -> None:
    lines = json.dumps({"messages": json.dumps(chat)})
    expected = [Prompt("How?", "Be brief.")]
    assert loaded(write(tmp_path / "p.jsonl", lines), column="messages") == expected
    cell = json.dumps(chat).replace('"', '""')
    content = f'id,messages\n1,"{cell}"\n'
    assert loaded(write(tmp_path / "p.csv", content), column="messages") == expected


def test_a_chat_in_python_notation_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", f'messages\n"{CHAT!r}"\n')
    with pytest.raises(PromptError, match=r"row 1 .* has a chat in Python notation"):
        loaded(path, column="messages")


@pytest.mark.parametrize("text", ['["a", "b"]', "[1]", "[", '[{"a": 1}]', "{}", "[]"])
def test_other_json_text_is_a_prompt(tmp_path: Path, text: str) -> None:
    assert texts(write(tmp_path / "p.jsonl", json.dumps({"text": text}))) == [text]


def test_choices_and_answers_as_json_text(tmp_path: Path) -> None:
    content = 'text,choices,answer\nWhich?,"[""red"", ""blue""]","[""r"", ""d""]"\n'
    path = write(tmp_path / "p.csv", content)
    prompts = loaded(path, choices_column="choices", answer_column="answer")
    assert prompts == [Prompt("Which?\nA. red\nB. blue", answers=("r", "d"))]


INVISIBLE = ["\u200b", "\ufeff", "\u2060\u200d", "\u00a0", "\u3164", "\u2800", "\ufe0f", "\u00ad"]


@pytest.mark.parametrize("line", INVISIBLE)
def test_lines_and_cells_without_a_visible_character_are_blank(tmp_path: Path, line: str) -> None:
    assert texts(write(tmp_path / "p.txt", f"How?\n{line}\n {line} \n")) == ["How?"]
    rows = "\n".join(json.dumps({"text": text}) for text in ("How?", line))
    assert texts(write(tmp_path / "p.jsonl", rows)) == ["How?"]


def test_visible_text_keeps_its_joiners(tmp_path: Path) -> None:
    lines = ["👩\u200d🚀 wer?", "क\u200dष", "\u200dx"]
    assert texts(write(tmp_path / "p.txt", "\n".join(lines))) == lines


def test_a_byte_order_mark_inside_of_a_concatenated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "\ufeffOne\n\ufeffTwo\u200b\n")
    assert texts(path) == ["One", "Two"]

"""Streams that break, pinned revisions and questions with choices, over HTTP."""

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet

from services.hub_repos import Fault
from services.hub_server import HubServer

Client = Callable[..., Any]

# The pauses are counted and not waited for.
READ = """
import time
pauses = []
time.sleep = pauses.append
from heretic.console import start_logging
from heretic.errors import PromptError
from heretic.prompts import streams
from heretic.prompts.sources import read_source
from heretic.settings.prompt_sources import PromptSource
start_logging()

def read(seed=0, **fields):
    pauses.clear()
    try:
        read = read_source(PromptSource(**fields), seed=seed)
    except PromptError as error:
        return {"error": str(error), "pauses": list(pauses)}
    texts = [prompt.text for prompt in read.prompts]
    answers = [prompt.answers for prompt in read.prompts]
    return {"texts": texts, "answers": answers, "facts": read.facts, "pauses": list(pauses)}
"""
SHARDS, ROWS = 6, 40
TEXTS = [f"Row {number}" for number in range(SHARDS * ROWS)]
STREAM = 'dataset="owner/shards", streaming=True'


def _lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def _add_shards(hub: HubServer, suffix: str) -> None:
    files = {}
    for number in range(SHARDS):
        content = _lines(TEXTS[number * ROWS : (number + 1) * ROWS])
        packed = gzip.compress(content, mtime=0) if suffix.endswith(".gz") else content
        files[f"train-{number}.{suffix}"] = packed
    hub.add("dataset", "owner/shards", files)


# The client libraries wait for dropped connections themselves, but give a server error up.
FAULTS = {
    "server error": Fault("GET", "/train-2", 503, times=9),
    "too many requests": Fault("GET", "/train-2", 429, times=3),
    "dropped at the start": Fault("GET", "/train-2", keep_bytes=0, times=9),
    "dropped in the middle": Fault("GET", "/train-2", keep_bytes=99, times=9),
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_stream_goes_on_and_repeats_no_row(
    hub: HubServer, client: Client, name: str, suffix: str
) -> None:
    _add_shards(hub, suffix)
    fault = replace(FAULTS[name])
    hub.faults.append(fault)
    done = client(READ + f'answer = read({STREAM}, split="train[10:150]")')
    assert done["answer"]["texts"] == TEXTS[10:150]
    assert fault.times == 0
    assert done["answer"]["pauses"]
    assert len(hub.asked("GET .*/train-4")) == 0, "a shard that the slice does not reach"
    if name == "server error":
        assert "resuming in 1 s" in done["output"]


@pytest.mark.slow
def test_a_stream_that_stays_broken_is_one_line(hub: HubServer, client: Client) -> None:
    _add_shards(hub, "jsonl")
    hub.faults.append(Fault("GET", "/train-1", 503, times=1000))
    answer = client(READ + f'answer = read({STREAM}, split="train[:150]")')["answer"]
    assert "owner/shards" in answer["error"]
    assert "503" in answer["error"]
    assert "\n" not in answer["error"]
    assert max(answer["pauses"]) == 60


@pytest.mark.slow
def test_a_stream_is_shuffled_by_its_seed_and_not_by_what_breaks(
    hub: HubServer, client: Client
) -> None:
    _add_shards(hub, "jsonl.gz")
    code = f"""
def shuffled(split, seed=0):
    return read(seed, {STREAM}, split=split, shuffle_buffer=50)
answer = [shuffled("train[:100]"), shuffled("train[100:240]"), shuffled("train[:100]", seed=1)]
"""
    first, rest, other = client(READ + code)["answer"]
    assert sorted(first["texts"] + rest["texts"]) == sorted(TEXTS)
    assert first["texts"] != TEXTS[:100]
    assert other["texts"] != first["texts"]
    assert first["facts"]["origin"]["seed"] == "0"
    # Nothing is drawn from further ahead than the buffer reaches.
    assert all(TEXTS.index(text) < place + 50 for place, text in enumerate(first["texts"]))
    hub.faults.append(Fault("GET", "/train-1", 503, times=9))
    broken = client(READ + code)["answer"][0]
    assert broken["texts"] == first["texts"]


def test_a_shuffled_sample_costs_one_small_download(hub: HubServer, client: Client) -> None:
    shard = gzip.compress(_lines([f"{n} " + "word " * 400 for n in range(2000)]))
    hub.add("dataset", "owner/large", {f"train-{n}.jsonl.gz": shard for n in range(10)})
    answer = client(
        READ + 'answer = read(dataset="owner/large", split="train[:200]", streaming=True, '
        "shuffle_buffer=1000, max_characters=100)"
    )["answer"]
    assert len(answer["texts"]) == 200
    assert max(map(len, answer["texts"])) <= 100
    assert 0 < hub.bytes_sent < 3 * len(shard)


def test_a_pinned_revision_is_read(hub: HubServer, client: Client) -> None:
    old = hub.add("dataset", "owner/questions", {"train.jsonl": _lines(["Old?"])})
    new = hub.add("dataset", "owner/questions", {"train.jsonl": _lines(["New?"])})
    code = f"""
def pinned(revision, **more):
    return read(dataset="owner/questions", revision=revision, **more)
answer = {{
    "newest": pinned(None), "old": pinned({old!r}),
    "streamed": pinned({old!r}, streaming=True, split="train[:5]"),
    "missing": pinned("no-such-branch"),
}}
"""
    answer = client(READ + code)["answer"]
    assert answer["newest"]["texts"] == ["New?"]
    assert answer["newest"]["facts"]["origin"]["revision"] == new
    for way in ("old", "streamed"):
        assert answer[way]["texts"] == ["Old?"]
        assert answer[way]["facts"]["origin"]["revision"] == old
    assert "no revision 'no-such-branch'" in answer["missing"]["error"]


def _questions(subject: str, count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"{subject} {n}?", "choices": ["No", "Yes"], "answer": 1, "subject": subject}
        for n in range(count)
    ]


def test_questions_of_chosen_subjects(hub: HubServer, client: Client) -> None:
    rows = [row for subject in ("algebra", "law", "logic") for row in _questions(subject, 4)]
    stream = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows), stream)
    readme = b"---\nconfigs:\n- config_name: all\n  data_files:\n"
    readme += b"  - split: dev\n    path: all/dev.parquet\n"
    readme += b"  - split: auxiliary_train\n    path: all/auxiliary.parquet\n---\n"
    files = {"README.md": readme, "all/dev.parquet": stream.getvalue()}
    hub.add("dataset", "cais/mmlu", {**files, "all/auxiliary.parquet": b"not to be fetched"})
    code = """
from heretic.settings.resolve import resolve
def sacred(**changes):
    found = resolve({}, {}, {"model": "owner/name", "sacred_prompts": changes or True}).settings
    (source,) = found.prompt_sources()["sacred_prompts"]
    return read(**source.model_dump())
answer = [sacred(), sacred(subjects="law, logic", split="dev[3:6]", answer_column="answer"),
          sacred(subjects="law, logik")]
"""
    built_in, chosen, misspelt = client(READ + code)["answer"]
    assert (
        "has no row of subject 'logik'; its subjects are: algebra, law, logic" in misspelt["error"]
    )
    assert len(built_in["texts"]) == 12
    assert built_in["texts"][0] == "algebra 0?\nA. No\nB. Yes\nAnswer:"
    assert [text.split("?")[0] for text in chosen["texts"]] == ["law 3", "logic 0", "logic 1"]
    assert chosen["answers"] == [["Yes"]] * 3


def test_a_chat_dataset_is_read_both_ways(hub: HubServer, client: Client) -> None:
    turns = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Why {n}?"}]
             for n in range(3)]  # fmt: skip
    stream = io.BytesIO()
    parquet.write_table(arrow.table({"messages": turns}), stream)
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in turns).encode()
    hub.add("dataset", "owner/parquet", {"train.parquet": stream.getvalue()})
    hub.add("dataset", "owner/jsonl", {"train.jsonl": lines})
    code = """
answer = [read(dataset="owner/" + kind, column="messages", split="train[:2]", streaming=streaming)
          for kind in ("parquet", "jsonl") for streaming in (False, True)]
"""
    for way in client(READ + code)["answer"]:
        assert way["texts"] == ["Why 0?", "Why 1?"]


def test_built_in_slices_share_no_prompt_though_the_dataset_repeats_some(
    hub: HubServer, client: Client
) -> None:
    rows = [f"Request {number % 390}" for number in range(420)]
    hub.add(
        "dataset",
        "mlabonne/harmful_behaviors",
        {
            "train.jsonl": _lines(rows),
            "test.jsonl": _lines([*rows[5:50], "request  7", "Held out"]),
        },
    )
    code = """
from heretic.prompts.checks import check_disjoint
from heretic.prompts.prompt import Prompt
from heretic.settings.prompt_sources import built_in_source
names = ("bad_prompts", "bad_evaluation_prompts", "bad_holdout_prompts")
answer = {n: read(**built_in_source(n, "owner/name").model_dump())["texts"] for n in names}
check_disjoint({name: [Prompt(text) for text in texts] for name, texts in answer.items()})
"""
    answer = client(READ + code)["answer"]
    assert len(answer["bad_prompts"]) == 300
    assert len(answer["bad_evaluation_prompts"]) == 90
    assert answer["bad_holdout_prompts"] == ["Held out"]

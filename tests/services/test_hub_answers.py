"""Answers of a mirror that would lead a client outside the hub cache, or hold it for ever."""

import json
from collections.abc import Callable
from threading import Event
from time import sleep
from typing import Any

import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http
from malformed.fork_server import run_group

from heretic.hub_answers import (
    HubAnswerError,
    check_body,
    check_headers,
    length_of,
    most_bytes,
)
from heretic.hub_session import lookup
from services.hub_server import HubServer

SHA = "c" * 40
MODEL = "/api/models/o/m"
TREE = f"{MODEL}/tree/main"
# Each in its own process and with its own hub, which writes nothing outside its cache or fails.
ESCAPES = [
    f"{way}: {fault}"
    for way in ("lookup", "snapshot", "dataset")
    for fault in (
        "ETag '../../../../../escaped'",
        "X-Linked-Etag '/abs/escaped'",
        "X-Repo-Commit '../../../../../escaped'",
    )
]


@pytest.mark.slow
def test_a_mirror_cannot_write_outside_the_cache() -> None:
    outcomes = dict(run_group("hub", ESCAPES))
    assert len(outcomes) == len(ESCAPES)
    for name, outcome in outcomes.items():
        assert outcome.fault() is None, f"{name}: {outcome.output}"
        assert outcome.status == 1, name
        assert "its answer for /" in outcome.output, name


@pytest.mark.slow
def test_a_hub_that_behaves_is_read() -> None:
    names = [
        f"{way}: {what}"
        for way in ("lookup", "snapshot", "dataset")
        for what in ("nothing wrong", "Xet offered")
    ]
    outcomes = dict(run_group("hub", names))
    assert len(outcomes) == len(names)
    assert {outcome.status for outcome in outcomes.values()} == {0}, outcomes


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Xet-Hash"])
@pytest.mark.parametrize("value", ["../x", "/x", "a" * 39, "A" * 40, ".", "c" * 40 + "\n"])
def test_identifiers_are_hashes(header: str, value: str) -> None:
    with pytest.raises(HubAnswerError, match="its answer for /o/m"):
        check_headers("HEAD", "/o/m", 200, {header: value})


def test_sound_headers_pass() -> None:
    sound = {"ETag": f'W/"{SHA}"', "X-Repo-Commit": SHA, "X-Linked-Etag": '"' + "a" * 64 + '"'}
    check_headers("HEAD", "/o/m", 200, sound)
    # A network of caches gives its own tags, which no client uses.
    check_headers("GET", "/large/x", 200, {"ETag": '"d41d8cd9-5"'})
    renamed = {"ETag": '"3c-abc"', "Location": "/new/name"}
    check_headers("HEAD", "/o/m", 307, renamed)
    assert "ETag" not in renamed


@pytest.mark.parametrize(
    ("path", "said", "words"),
    [
        (MODEL, [], "a list instead of an object"),
        (MODEL, None, "null instead of an object"),
        (MODEL, {"sha": "../.."}, "has the commit '../..'"),
        (MODEL, {"sha": SHA, "siblings": [{"rfilename": "../x"}]}, "outside the repository"),
        (MODEL, {"sha": SHA, "siblings": [5]}, "without names"),
        (TREE, {}, "a dict instead of a list"),
        (TREE, [{"path": "/etc/x"}], "outside the repository"),
        (TREE, [{"path": "a\\..\\x"}], "outside the repository"),
        (TREE, [{"path": "x", "oid": "../x"}], "has the hash"),
        (TREE, [{"path": "x", "lfs": {"oid": "../x"}}], "has the hash"),
        (TREE, [{"path": "x", "xetHash": "../x"}], "has the hash"),
    ],
)
def test_descriptions_stay_in_their_repository(path: str, said: object, words: str) -> None:
    with pytest.raises(HubAnswerError, match=words):
        check_body("GET", path, json.dumps(said).encode())


def test_a_login_page_is_recognized() -> None:
    with pytest.raises(HubAnswerError, match="a web page instead of JSON"):
        check_body("GET", f"{MODEL}/revision/main", b"<html>")
    check_body("GET", "/api/whoami-v2", b"<html>")  # is no description of a repository


def test_bodies_are_limited_by_their_kind() -> None:
    assert most_bytes("/o/m/resolve/main/model.safetensors", 200, 10**11) == 10**11
    assert most_bytes("/o/m/resolve/main/config.json", 200, 10**11) == 16_000_000
    assert most_bytes("/o/m/resolve/main/data.jsonl", 200, None) == 64_000_000
    assert most_bytes("/o/m/resolve/main/model.safetensors", 503, 10**11) == 1_000_000
    assert length_of({"Content-Length": "9" * 30}, "Content-Length") is None
    assert length_of({"b": "7"}, "a", "b") == 7


def test_an_abandoned_lookup_is_checked_to_its_end() -> None:
    before = _http._GLOBAL_CLIENT_FACTORY
    may_go_on, used = Event(), []

    def ask() -> None:
        may_go_on.wait(10)
        used.append(type(_http.get_session()).__name__)
        may_go_on.clear()

    try:
        with pytest.raises(TimeoutError, match="no complete answer within 0 s"):
            lookup(ask, seconds=0.05)
        may_go_on.set()
        for _ in range(1000):
            if used:
                break
            sleep(0.01)
        assert used == ["_Client"]
    finally:
        set_client_factory(before)
    lookup(lambda: None)
    assert _http._GLOBAL_CLIENT_FACTORY is before


def test_a_hub_that_is_away_is_one_line_soon(hub: HubServer, client: Callable[..., Any]) -> None:
    code = """
import time
from heretic.errors import ModelLoadError, PromptError
from heretic.model.checkpoint import locate
from heretic.prompts.sources import load_prompts
from heretic.settings.prompt_sources import PromptSource

answer = []
for call in (lambda: locate("o/m", None),
             lambda: load_prompts(PromptSource(dataset="o/m"), seed=0)):
    started = time.monotonic()
    try:
        call()
    except (ModelLoadError, PromptError) as error:
        answer.append([str(error), time.monotonic() - started])
"""
    done = client(code, HF_ENDPOINT="http://127.0.0.1:9")
    assert len(done["answer"]) == 2
    for message, seconds in done["answer"]:
        assert "unreachable" in message
        assert "\n" not in message
        assert seconds < 15, "far less than the 28 s of the library's own repetitions"
    assert "Retrying" not in done["output"]

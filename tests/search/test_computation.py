"""How trials were computed is kept with them, named when it changes, and is no other study."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heretic.search.computation import describe, warn_of_changes
from heretic.search.loop import TrialLoop
from heretic.search.records import TrialRecord, trial_rows
from heretic.search.study import open_study, read_records
from heretic.settings.schema import Settings
from search.small_search import OBJECTIVES, STUDY, engine_of, objectives_of, small_loop

RECORDED = ("device", "device_map", "attn_implementation", "max_batch_size", "compile")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Warnings of the library."""
    log = logging.getLogger("heretic")
    before, log.propagate = log.propagate, True
    with caplog.at_level(logging.WARNING, logger="heretic"):
        yield caplog
    log.propagate = before


def loop_under(**settings: Any) -> TrialLoop:
    loop = small_loop()
    return replace(loop, computation=describe(loop.engine, Settings(**settings).runtime()))


def run(loop: TrialLoop, database: Path, n_trials: int) -> list[TrialRecord]:
    with open_study(database, STUDY, OBJECTIVES) as study:
        found = loop.run(study, n_trials)
        assert read_records(study, n_trials) == found
    return found


def test_settings_that_change_rounding_start_no_other_study() -> None:
    assert set(RECORDED) <= Settings().runtime().keys()
    assert not set(RECORDED) & Settings().subset("optimize").keys()


def test_the_description_has_what_auto_turned_out_to_be() -> None:
    loop = small_loop()
    found = describe(loop.engine, Settings(device="auto", dtype="auto").runtime())
    network: Any = loop.engine.model.network
    assert found == {
        "device": str(loop.engine.model.device),
        "dtype": "float32",
        "attn_implementation": network.config._attn_implementation,
        "max_batch_size": 128,
        "compile": False,
        "engine": loop.engine.name,
        "trial_batch_size": 1,
    }
    assert found["attn_implementation"] is not None
    network.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1, "model.norm": "cpu"}
    network.to(torch.bfloat16)
    spread = describe(loop.engine, Settings().runtime())
    assert (spread["device_map"], spread["dtype"]) == ("0,1,cpu", "bfloat16")


def test_each_trial_keeps_how_it_was_computed(tmp_path: Path) -> None:
    loop = loop_under(max_batch_size=64)
    first = run(loop, tmp_path / "study.db", 2)
    # Memory ran out meanwhile.
    engine_of(loop).model.batch_size.current = 4
    records = run(loop, tmp_path / "study.db", 3)
    assert records[:2] == first
    assert [record.computation["batch_size"] for record in records] == [8, 8, 4]
    assert {record.computation["max_batch_size"] for record in records} == {64}
    json.dumps([record.to_dict() for record in records], allow_nan=False)
    rows = trial_rows(records, objectives_of(0.5, 2))
    assert [row["computed_batch_size"] for row in rows] == [8, 8, 4]
    assert rows[0]["computed_device"] == str(loop.engine.model.device)
    assert rows[0]["computed_dtype"] == "float32"


def test_a_study_that_continues_under_other_settings_warns_once(
    tmp_path: Path, lines: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "study.db"
    run(loop_under(max_batch_size=64), database, 3)
    run(loop_under(max_batch_size=64), database, 4)
    assert "continues with other settings" not in lines.text
    found = run(loop_under(max_batch_size=2), database, 6)
    assert lines.text.count("continues with other settings") == 1
    assert "(max_batch_size 64 -> 2)" in lines.text
    assert len(found) == 6
    lines.clear()
    # Nothing is computed, so nothing is said.
    run(loop_under(max_batch_size=16), database, 6)
    assert lines.text == ""


@pytest.mark.parametrize(
    ("earlier", "now", "said"),
    [
        ([], {"device": "cpu"}, None),
        ([{}], {"device": "cpu"}, None),
        ([{"device": "cpu", "batch_size": 4}], {"device": "cpu"}, None),
        (
            [{"device": "cuda:0", "gpu": "H"}] * 2,
            {"device": "cpu"},
            "device cuda:0 -> cpu, gpu H -> none",
        ),
        ([{"compile": False}, {"compile": True}], {"compile": True}, "compile False -> True"),
        ([{"a": None}], {"a": "sdpa"}, "a none -> sdpa"),
    ],
)
def test_what_changed_is_named(
    lines: pytest.LogCaptureFixture,
    earlier: list[dict[str, Any]],
    now: dict[str, Any],
    said: str | None,
) -> None:
    warn_of_changes(earlier, now)
    messages = [record.getMessage() for record in lines.records]
    assert len(messages) == (said is not None)
    assert said is None or f"({said})" in messages[0]

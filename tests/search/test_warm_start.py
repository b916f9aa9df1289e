"""The first trials of a search: which they are, and that no interruption changes them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.errors import StudyError
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.search.loop import TrialLoop
from heretic.search.records import TrialRecord
from heretic.search.search_space import SearchSpace
from heretic.search.warm_start import warm_starts
from heretic.search.warm_start_sources import WarmStartTrial
from search.small_search import small_loop
from search.test_pending import FIRST_IS_STORED, K, cut_off, run
from search.test_study import states, told

N = 7
SPACE = SearchSpace(3, "both", 2.0)


def known(weight: float, index: float | None = 1.0) -> WarmStartTrial:
    part = ComponentParameters(0.0, 1.0, weight)
    scope: Any = "per_layer" if index is None else "global"
    return WarmStartTrial(
        f"edit {weight}", 3, AblationParameters(scope, index, {ATTENTION: part, MLP: part})
    )


EDITS = [known(0.5), known(0.75, None), known(1.0)]


def loop(*edits: WarmStartTrial, **options: Any) -> TrialLoop:
    found = small_loop(seed=5, **options)
    starts = warm_starts(edits, found.space, 10, required=True)
    return replace(found, warm_starts=starts)


def weights(records: Sequence[TrialRecord]) -> list[float]:
    return [record.parameters.components[ATTENTION].weight for record in records]


def test_the_first_places_are_the_known_edits(tmp_path: Path) -> None:
    records = run(tmp_path / "study.db", loop(*EDITS), 5)
    assert weights(records)[:3] == [0.5, 0.75, 1.0]
    assert [r.parameters.direction_index for r in records[:3]] == [1.0, None, 1.0]
    assert len({*weights(records)}) == 5


@pytest.mark.parametrize(("sampler", "together"), [("tpe", K), ("nsga2", 1)])
def test_a_search_cut_off_goes_on_as_if_undisturbed(
    tmp_path: Path, sampler: Any, together: int
) -> None:
    """Cut off among the known edits and after them, between and within groups in flight."""
    options: dict[str, Any] = {
        "in_flight": together,
        "sampler": sampler,
        "sobol_startup": True,
    }
    edits = [*EDITS, known(1.25)]
    same = loop(*edits, **options)
    whole = run(tmp_path / "whole.db", same, N)
    assert weights(whole)[:4] == [0.5, 0.75, 1.0, 1.25]
    database = tmp_path / "study.db"
    run(database, same, 1)
    for stored in (0, 1, 1, 1):
        with cut_off(FIRST_IS_STORED + stored):
            run(database, same, N)
    assert states(database) == [TrialState.COMPLETE] * 4
    assert told(run(database, same, N)) == told(whole)


def test_a_study_that_has_trials_tries_what_it_lacks(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    first = run(database, loop(EDITS[1]), 2)
    records = run(database, loop(*EDITS), 6)
    assert told(records[:2]) == told(first)
    assert weights(records)[:4] == [
        0.75,
        first[1].parameters.components[ATTENTION].weight,
        0.5,
        1.0,
    ]
    # The same command again, and one without any, go on.
    assert told(run(database, loop(*EDITS), 6)) == told(records)
    assert told(run(database, loop(), 7))[:6] == told(records)


def test_none_leaves_a_search_as_it_was(tmp_path: Path) -> None:
    with_none = run(tmp_path / "none.db", loop(), 4)
    assert told(with_none) == told(run(tmp_path / "study.db", small_loop(seed=5), 4))


def test_each_is_tried_once_and_no_more_than_startup_trials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "heretic"):
        found = warm_starts([*EDITS, EDITS[0]], SPACE, 2, required=True)
    assert [sampled["attn_weight"] for sampled in found] == [0.5, 0.75]
    assert "Using 2 warm-start trials out of 3 (n_startup_trials)" in caplog.messages


def test_those_that_no_trial_can_be_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    space = replace(SPACE, direction_scope="global")
    with caplog.at_level(logging.INFO, "heretic"):
        found = warm_starts(EDITS, space, 10, required=True)
    assert [sampled["attn_weight"] for sampled in found] == [0.5, 1.0]
    assert any("Skipped warm-start trial: edit 0.75 has" in line for line in caplog.messages)
    assert warm_starts(EDITS[1:2], space, 10, required=False) == []
    with pytest.raises(StudyError, match=r"edit 0.75 has the direction_scope per_layer"):
        warm_starts(EDITS[1:2], space, 10, required=True)

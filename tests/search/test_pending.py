"""Several trials in flight: asked for and scored together, and cut off anywhere without a trace."""

import math
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from heretic.ablation.plan import Edit
from heretic.engine.base import FeasibilityLimits, TrialScores
from heretic.search import loop as loop_module
from heretic.search.loop import TrialLoop
from heretic.search.records import TrialRecord
from heretic.search.samplers import Sampling, make_sampler
from heretic.search.status import read_search
from heretic.search.study import in_flight, open_study, read_records
from heretic.timing import STAGES, StageTimer
from search.small_search import OBJECTIVES, STUDY, SmallEngine, search, small_loop
from search.test_study import HERE, states, told, waiting_process

pytestmark = pytest.mark.slow
K, FIRST, N = 3, 6, 8
# With it a trial of the second group depends on those in flight before it, as a test shows.
SEED = 5
# Of Optuna's storage: all that changes a study, each in a transaction of its own.
WRITES = (
    "_create_new_trial", "_set_trial_param", "set_trial_state_values", "set_trial_user_attr",
    "set_trial_system_attr", "set_study_user_attr",
)  # fmt: skip
# The writes of a search with one group before it: how many trials are wanted, what is in flight,
# and each trial.
WANTED_IS_SAID, GROUP_IS_ASKED_FOR, FIRST_IS_STORED, OF_A_GROUP = 0, 1, 2, 2 + K


@pytest.fixture(scope="module")
def loop() -> TrialLoop:
    return small_loop(seed=SEED, in_flight=K)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, loop: TrialLoop) -> list[TrialRecord]:
    """The trials of a search that nothing disturbs; of the last group there are two."""
    with open_study(tmp_path_factory.mktemp("whole") / "study.db", STUDY, OBJECTIVES) as study:
        return loop.run(study, N)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, loop: TrialLoop) -> Path:
    """The database of its first group; the sampler has learnt from that one in the next."""
    database = tmp_path_factory.mktemp("begun") / "study.db"
    with open_study(database, STUDY, OBJECTIVES) as study:
        loop.run(study, K)
    return database


@contextmanager
def cut_off(at: int) -> Iterator[None]:
    """Stop before a write to the database, as a kill would: each is stored whole or not at all."""
    with counted_writes(at), pytest.raises(KeyboardInterrupt):
        yield


@contextmanager
def counted_writes(stop_at: float = math.inf) -> Iterator[list[str]]:
    """The names of the writes to the database until the one numbered `stop_at`."""
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(RDBStorage, name, _noted(name, made, stop_at))
        yield made


def _noted(name: str, made: list[str], stop_at: float) -> Any:
    original = getattr(RDBStorage, name)

    def write(*arguments: Any, **options: Any) -> Any:
        # What comes after the end of a process is not written either.
        if len(made) >= stop_at:
            raise KeyboardInterrupt
        made.append(name)
        return original(*arguments, **options)

    return write


def run(database: Path, loop: TrialLoop, n_trials: int = N) -> list[TrialRecord]:
    with open_study(database, STUDY, OBJECTIVES) as study:
        return loop.run(study, n_trials)


def test_trials_are_asked_for_and_scored_in_groups(
    tmp_path: Path, loop: TrialLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    score = SmallEngine.score

    def counted(
        self: SmallEngine,
        edits: Sequence[Sequence[Edit]],
        limits: FeasibilityLimits,
        clock: StageTimer,
    ) -> list[TrialScores]:
        sizes.append(len(edits))
        return score(self, edits, limits, clock)

    monkeypatch.setattr(SmallEngine, "score", counted)
    run(tmp_path / "study.db", loop, 4)
    assert sizes == [3, 1]
    run(tmp_path / "study.db", loop, N)
    assert sizes == [3, 1, 2, 2]


def test_a_trial_is_chosen_in_view_of_those_in_flight(
    tmp_path: Path, loop: TrialLoop, whole: list[TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first of a group, which knows all that it would know alone."""
    alone = search(tmp_path / "alone.db", FIRST, seed=SEED)
    monkeypatch.setattr(loop_module, "make_sampler", _blind)
    blind = run(tmp_path / "blind.db", loop, FIRST)
    for others in (alone, blind):
        assert told(others[: K + 1]) == told(whole[: K + 1])
        rest = zip(others[K + 1 :], whole[K + 1 : FIRST], strict=True)
        assert any(one.sampled != other.sampled for one, other in rest)


def _blind(sampling: Sampling, place: int, *, parallel_trials: bool) -> BaseSampler:
    return make_sampler(sampling, place)


def test_a_search_cut_off_between_groups_goes_on(
    tmp_path: Path, begun: Path, loop: TrialLoop, whole: list[TrialRecord]
) -> None:
    database = Path(shutil.copy(begun, tmp_path / "study.db"))
    assert told(run(database, loop)) == told(whole)
    assert states(database) == [TrialState.COMPLETE] * N


@pytest.mark.parametrize("together", [1, K])
def test_a_finished_trial_is_one_write(tmp_path: Path, together: int) -> None:
    """And so is what is in flight, which others see before it is finished."""
    with counted_writes() as made:
        run(tmp_path / "study.db", small_loop(seed=SEED, in_flight=together), 2 * K)
    group = ["set_study_user_attr", *["_create_new_trial"] * together]
    # How many trials are wanted, and by which objectives.
    assert made == [*["set_study_user_attr"] * 2, *group * (2 * K // together)]


@pytest.mark.parametrize("at", range(OF_A_GROUP))
def test_a_search_cut_off_at_any_write_loses_and_changes_nothing(
    tmp_path: Path, begun: Path, loop: TrialLoop, whole: list[TrialRecord], at: int
) -> None:
    database = Path(shutil.copy(begun, tmp_path / "study.db"))
    with cut_off(at):
        run(database, loop, FIRST)
    assert states(database) == [TrialState.COMPLETE] * (K + max(0, at - FIRST_IS_STORED))
    assert told(run(database, loop)) == told(whole)
    assert states(database) == [TrialState.COMPLETE] * N


@pytest.mark.parametrize("again", range(OF_A_GROUP - 1))
def test_a_resumption_cut_off_as_well_runs_nothing_twice(
    tmp_path: Path, begun: Path, loop: TrialLoop, whole: list[TrialRecord], again: int
) -> None:
    """The first trial of three was stored before, and two are left."""
    database = Path(shutil.copy(begun, tmp_path / "study.db"))
    for at in (FIRST_IS_STORED + 1, again, GROUP_IS_ASKED_FOR):
        with cut_off(at):
            run(database, loop, FIRST)
    assert told(run(database, loop)) == told(whole)
    assert states(database) == [TrialState.COMPLETE] * N


def test_a_killed_search_of_several_in_flight_goes_on(
    tmp_path: Path, loop: TrialLoop, whole: list[TrialRecord]
) -> None:
    """Killed in the second group, when its first trial was stored."""
    database = tmp_path / "study.db"
    program = (HERE / "small_search.py").read_text(encoding="utf-8")
    with waiting_process(program, database, N, K + 1, "tell", K, SEED) as process:
        assert read_search(database).unfinished == {4: "running", 5: "running"}
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert told(run(database, loop)) == told(whole)


@pytest.mark.parametrize("together", [1, 2, 5])
def test_another_number_in_flight_goes_on_with_what_was_asked_for(
    tmp_path: Path, begun: Path, loop: TrialLoop, whole: list[TrialRecord], together: int
) -> None:
    database = Path(shutil.copy(begun, tmp_path / "study.db"))
    with cut_off(FIRST_IS_STORED):
        run(database, loop, FIRST)
    records = run(database, small_loop(seed=SEED, in_flight=together))
    assert told(records[:FIRST]) == told(whole[:FIRST])
    assert len({str(record.parameters) for record in records}) == N


def test_a_smaller_number_in_flight_that_is_cut_off_keeps_what_waits(
    tmp_path: Path, begun: Path, loop: TrialLoop, whole: list[TrialRecord]
) -> None:
    database = Path(shutil.copy(begun, tmp_path / "study.db"))
    with cut_off(FIRST_IS_STORED):
        run(database, loop, FIRST)
    with cut_off(FIRST_IS_STORED):
        run(database, small_loop(seed=SEED), FIRST)
    assert told(run(database, loop)) == told(whole)


def test_fewer_trials_leave_what_was_asked_for_waiting(
    tmp_path: Path, begun: Path, loop: TrialLoop, whole: list[TrialRecord]
) -> None:
    database = Path(shutil.copy(begun, tmp_path / "study.db"))
    with cut_off(FIRST_IS_STORED):
        run(database, loop, FIRST)
    assert told(run(database, loop, K + 1)) == told(whole[: K + 1])
    assert read_search(database).unfinished == {K + 1: "waiting", K + 2: "waiting"}
    assert told(run(database, loop, FIRST)) == told(whole[:FIRST])


def test_an_exception_restores_the_model_and_loses_no_trial(
    tmp_path: Path, whole: list[TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, loop = tmp_path / "study.db", small_loop(seed=SEED, in_flight=K)
    writers = loop.engine.model.anatomy.writers
    pristine = [writer.weight.clone() for writer in writers]
    with monkeypatch.context() as patch:
        patch.setattr(SmallEngine, "score", _edit_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(database, loop)
    assert all(w.weight.equal(before) for w, before in zip(writers, pristine, strict=True))
    with open_study(database, STUDY, OBJECTIVES) as study:
        asked = in_flight(study.user_attrs, 0)
    assert [each.sampled for each in asked] == [record.sampled for record in whole[:K]]
    assert told(run(database, loop)) == told(whole)


def _edit_and_stop(engine: SmallEngine, edits: Sequence[Sequence[Edit]], *_: Any) -> None:
    engine.editor.abliterate(edits[-1])
    raise KeyboardInterrupt


def test_seconds_are_told_by_stage_and_shared_equally(
    whole: list[TrialRecord], begun: Path
) -> None:
    for record in whole:
        assert list(record.stages) == list(STAGES)
        assert record.seconds == sum(record.stages.values())
        assert min(record.stages[s] for s in ("sampler", "edit", "prefill", "decode")) > 0
    assert [r.stages == whole[0].stages for r in whole] == [True] * K + [False] * (N - K)
    with open_study(begun, STUDY, OBJECTIVES) as study:
        stored = read_records(study, K)
    assert all(record.stages and record.seconds > 0 for record in stored)

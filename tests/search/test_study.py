"""The study outlives runs: resumed, killed, and shared by objectives."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.engine.base import FeasibilityLimits
from heretic.errors import StudyError
from heretic.search.database import storage_url
from heretic.search.records import (
    TrialRecord,
    choose,
    log_odds_correlation,
    mean_stages,
    trial_rows,
)
from heretic.search.samplers import Sampling, make_sampler
from heretic.search.study import (
    RECORD,
    finished_trials,
    open_study,
    read_records,
    study_name,
)
from heretic.timing import STAGES, StageTimer
from search.small_search import (
    OBJECTIVES,
    STUDY,
    engine_of,
    objectives_of,
    search,
    small_loop,
)

HERE = Path(__file__).parent
N = 8
NOTHING = AblationParameters("per_layer", None, {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of eight trials in one go."""
    database = tmp_path_factory.mktemp("undisturbed") / "study.db"
    search(database, N)
    return database


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> list[TrialRecord]:
    """Those trials."""
    with open_study(finished, STUDY, OBJECTIVES) as study:
        return read_records(study, N)


@contextmanager
def waiting_process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the study and is in the middle of a trial."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
        yield process
    finally:
        process.kill()
        process.wait()


def told(records: list[TrialRecord]) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions, nor on how often there were some."""
    return [(record.parameters, dict(record.sampled), dict(record.scores)) for record in records]


def states(database: Path, name: str = STUDY) -> list[TrialState]:
    with open_study(database, name, OBJECTIVES) as study:
        return [trial.state for trial in study.get_trials(deepcopy=False)]


def test_every_trial_tries_something_else(undisturbed: list[TrialRecord]) -> None:
    tried = {json.dumps(record.parameters.to_dict()) for record in undisturbed}
    assert len(undisturbed) == len(tried) == N
    assert [record.number for record in undisturbed] == list(range(N))


def test_a_resumed_study_goes_on_as_if_undisturbed(
    tmp_path: Path, undisturbed: list[TrialRecord]
) -> None:
    database = tmp_path / "study.db"
    first = search(database, 4)
    assert told(first) == told(undisturbed[:4])
    assert told(search(database, N)) == told(undisturbed)


def test_a_killed_search_loses_and_repeats_nothing(
    tmp_path: Path, undisturbed: list[TrialRecord]
) -> None:
    database = tmp_path / "study.db"
    program = (HERE / "small_search.py").read_text(encoding="utf-8")
    with waiting_process(program, database, N, 4) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    resumed = search(database, N)
    assert told(resumed) == told(undisturbed)
    assert [record.number for record in resumed] == list(range(N))
    assert states(database) == [TrialState.COMPLETE] * N


def test_a_trial_that_ends_in_an_exception_is_run_again(
    tmp_path: Path, undisturbed: list[TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, loop = tmp_path / "study.db", small_loop()
    pristine = [writer.weight.clone() for writer in loop.engine.model.anatomy.writers]
    evaluate, calls = engine_of(loop).evaluator.evaluate, []

    def stop_at_the_second(limits: FeasibilityLimits, clock: StageTimer) -> Any:
        calls.append(limits)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(limits, clock)

    monkeypatch.setattr(engine_of(loop).evaluator, "evaluate", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt), open_study(database, STUDY, OBJECTIVES) as study:
        loop.run(study, N)
    # The model is the original again.
    writers = loop.engine.model.anatomy.writers
    assert all(w.weight.equal(before) for w, before in zip(writers, pristine, strict=True))
    assert told(search(database, 3)) == told(undisturbed[:3])


def test_fewer_trials_than_done_run_nothing_and_give_the_first(
    finished: Path, undisturbed: list[TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = small_loop()
    monkeypatch.setattr(
        engine_of(loop).evaluator, "evaluate", lambda *_: pytest.fail("ran a trial")
    )
    with open_study(finished, STUDY, OBJECTIVES) as study:
        assert loop.run(study, 2) == undisturbed[:2]
        assert loop.run(study, N) == undisturbed
    assert states(finished) == [TrialState.COMPLETE] * N


def test_another_seed_tries_something_else(tmp_path: Path, undisturbed: list[TrialRecord]) -> None:
    other = search(tmp_path / "study.db", 2, seed=1)
    assert not {str(r.parameters) for r in other} & {str(r.parameters) for r in undisturbed}


def test_another_objective_is_another_study_in_the_same_file(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    with open_study(database, "one", OBJECTIVES) as study:
        study.add_trial(optuna.trial.create_trial(values=[0.5, 3.0]))
    assert states(database, "two") == []
    with open_study(database, "one", OBJECTIVES) as study:
        assert [trial.values for trial in finished_trials(study)] == [[0.5, 3.0]]
    assert {s.study_name for s in optuna.get_all_study_summaries(storage_url(database))} == {
        "one",
        "two",
    }


def test_a_study_is_named_by_its_objective() -> None:
    objective = {"settings": {"max_kl": 1.0, "seed": 0}, "inputs": {"good": "ab"}}
    name = study_name(objective)
    assert name == study_name(json.loads(json.dumps(objective, sort_keys=True)))
    assert name != study_name({**objective, "inputs": {"good": "cd"}})
    assert name.startswith("ablation-")


def test_any_folder_name_will_do(tmp_path: Path) -> None:
    database = tmp_path / "a b #1 {run} 100%25 what?x=y" / "study.db"
    with open_study(database, STUDY, OBJECTIVES) as study:
        study.add_trial(optuna.trial.create_trial(values=[0.5, 3.0]))
    assert states(database) == [TrialState.COMPLETE]
    assert database.stat().st_size > 0


def test_the_samplers_seed_follows_seed_and_progress() -> None:
    def first_choice(seed: int, finished: int) -> float:
        study = optuna.create_study(sampler=make_sampler(Sampling(seed, 10), finished))
        return study.ask().suggest_float("x", 0, 1)

    choices = [first_choice(seed, finished) for seed in range(3) for finished in range(20)]
    assert len(set(choices)) == 60
    assert first_choice(0, 7) == first_choice(0, 7)


def test_records_survive_json(undisturbed: list[TrialRecord]) -> None:
    stored = json.loads(json.dumps([r.to_dict() for r in undisturbed], allow_nan=False))
    assert [TrialRecord.from_dict(record) for record in stored] == undisturbed


@pytest.mark.parametrize(
    "name", ["parameters", "scores", "feasible", "seconds", "stages", "computation"]
)
def test_a_record_that_lacks_something_is_damaged(
    tmp_path: Path, undisturbed: list[TrialRecord], name: str
) -> None:
    stored = undisturbed[0].to_dict()
    del stored[name]
    with pytest.raises(StudyError, match=f"damaged .{name}: Field required"):
        TrialRecord.from_dict(stored)
    del stored["number"], stored["sampled"]
    with open_study(tmp_path / "study.db", STUDY, OBJECTIVES) as study:
        trial = study.ask()
        trial.set_user_attr(RECORD, stored)
        study.tell(trial, (0.5, 1))
        with pytest.raises(StudyError, match=f"damaged .{name}: Field required"):
            read_records(study, 1)


def test_the_seconds_of_stages_in_the_table_and_on_average(undisturbed: list[TrialRecord]) -> None:
    unknown, known = replace(undisturbed[0], stages={}), undisturbed[1]
    assert mean_stages([unknown]) == {}
    assert mean_stages([unknown, known]) == known.stages
    first, second = trial_rows([unknown, known], objectives_of(0.5, 2))
    assert first["seconds_decode"] is None
    assert second["seconds_decode"] == round(known.stages["decode"], 4)


@pytest.mark.parametrize("before", [0, 3])
def test_samplers_are_told_that_an_edit_which_gains_nothing_is_no_success(
    tmp_path: Path, before: int
) -> None:
    """Of two prompts no trial leaves fewer than 0 unanswered, and each fewer than 3."""
    original = {"kl_first_token": 0.0, "unanswered": before}
    loop = replace(small_loop(max_kl=0.05), original=original)
    with open_study(tmp_path / "study.db", STUDY, OBJECTIVES) as study:
        records = loop.run(study, 6)
        told = [trial.constraints for trial in finished_trials(study)]
        assert read_records(study, 6) == records
    assert {record.feasible for record in records} == {True, False}
    for record, constraints in zip(records, told, strict=True):
        excess = record.scores["kl_first_token"] - 0.05
        assert record.feasible == (excess <= 0)
        without_gain = record.feasible and before == 0
        assert constraints == {"limits": -excess if without_gain else excess}


def test_infeasible_trials_are_recorded_but_never_chosen(tmp_path: Path) -> None:
    records = search(tmp_path / "study.db", 6, max_kl=0.05)
    feasible = [record for record in records if record.feasible]
    assert 0 < len(feasible) < len(records)
    for record in records:
        kl = record.scores["kl_first_token"]
        assert record.feasible == (kl <= 0.05)
        assert record.infeasible_because == ("" if kl <= 0.05 else f"max_kl: {kl:.4g} > 0.05")
        assert (record.scores["refusals"] is not None) == record.feasible
    chosen, reason = choose(records, "closest", 0.1, objectives_of(0.05, 2))
    assert chosen in feasible
    assert reason.startswith("closest")
    because = {
        row["trial"]: row["infeasible_because"]
        for row in trial_rows(records, objectives_of(0.05, 2))
    }
    assert because == {record.number: record.infeasible_because for record in records}
    by_state = {row["trial"]: row["state"] for row in trial_rows(records, objectives_of(0.05, 2))}
    assert [n for n, state in by_state.items() if state == "complete"] == [
        record.number for record in feasible
    ]


def test_the_table_marks_the_front(undisturbed: list[TrialRecord]) -> None:
    rows = trial_rows(undisturbed, objectives_of(0.5, 2))
    assert [row["trial"] for row in rows] == list(range(N))
    front = [row for row in rows if row["pareto"]]
    assert front
    for row in front:
        assert not any(
            other["kl_first_token"] <= row["kl_first_token"]
            and other["unanswered"] <= row["unanswered"]
            and (other["kl_first_token"], other["unanswered"])
            != (row["kl_first_token"], row["unanswered"])
            for other in rows
            if other["state"] == "complete"
        )
    columns = list(rows[0])
    at = columns.index("seconds")
    assert columns[at + 1 : at + 1 + len(STAGES)] == [f"seconds_{name}" for name in STAGES]
    sampled = list(undisturbed[0].sampled)
    assert columns[at + 1 + len(STAGES) :] == [*sampled, "computed_batch_size"]
    assert {"attn_weight", "mlp_layer_min", "direction_scope", "seconds"} <= rows[0].keys()


@pytest.mark.parametrize("max_kl", [0.5, 1e9])
def test_weights_that_overflow_do_not_end_a_search(tmp_path: Path, max_kl: float) -> None:
    records = search(tmp_path / "study.db", 2, overflowing=True, max_kl=max_kl)
    broken = [record for record in records if not record.feasible]
    assert len(broken) == 2
    assert all(record.scores["unanswered"] is None for record in broken)
    json.dumps([record.to_dict() for record in records], allow_nan=False)
    with pytest.raises(StudyError, match="no trial is feasible; raise max_kl"):
        choose(broken, "closest", 0.1, objectives_of(0.5, 2))


def test_a_stored_trial_is_the_edit_that_was_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = small_loop()
    seen: list[Sequence[Edit]] = []
    editor = engine_of(loop).editor
    load = editor.load

    def remember(trials: Sequence[Sequence[Edit]], clock: StageTimer | None = None) -> None:
        seen.extend(trials)
        load(trials, clock)

    monkeypatch.setattr(editor, "load", remember)
    with open_study(tmp_path / "study.db", STUDY, OBJECTIVES) as study:
        records = loop.run(study, 2)
    edited = seen[:2]
    for record, edits in zip(records, edited, strict=True):
        strengths = record.parameters.strengths(3)
        for edit in edits:
            assert edit.strengths == (strengths[edit.writer.component][edit.writer.layer],)
            assert edit.strengths > (0,)


def test_a_confined_search_edits_nothing_else_and_its_records_say_so() -> None:
    loop = small_loop(rows=(1, 3))
    records = loop.run(optuna.create_study(directions=["minimize", "minimize"]), 6)
    edited = set()
    for record in records:
        stored = json.loads(json.dumps(record.to_dict()))
        parameters = TrialRecord.from_dict(stored).parameters
        assert parameters == record.parameters
        edits = plan_edits(parameters, loop.directions, loop.engine.model.anatomy)
        edited |= {edit.writer.layer for edit in edits}
        assert parameters.direction_index in (None, 1.0, 3.0)
    assert edited == {0, 2}


def test_log_odds_agree_with_refusals_by_rank() -> None:
    def scored(pairs: list[tuple[float | None, int | None]]) -> list[TrialRecord]:
        return [
            TrialRecord(n, NOTHING, {}, {"refusal_log_odds": odds, "refusals": count}, True, 1.0)
            for n, (odds, count) in enumerate(pairs)
        ]

    rising = scored([(-3.0, 0), (-1.0, 2), (None, None), (0.5, None), (4.0, 9), (9.0, 40)])
    assert log_odds_correlation(rising) == {"trials": 4, "spearman": pytest.approx(1.0)}
    mixed = scored([(-3.0, 2), (-1.0, 0), (4.0, 40), (9.0, 9)])
    assert log_odds_correlation(mixed)["spearman"] == pytest.approx(0.6)
    assert log_odds_correlation(scored([(1.0, 2), (2.0, 3)]))["spearman"] is None
    assert log_odds_correlation(scored([(n, 5) for n in range(4)]))["spearman"] is None
    assert log_odds_correlation([]) == {"trials": 0, "spearman": None}

"""Who chooses the trials: the one that was asked for, and as if nothing had been interrupted."""

import shutil
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from heretic.search.pending import BufferedStudy
from heretic.search.records import TrialRecord
from heretic.search.samplers import (
    Name,
    ResumableNSGAII,
    Sampling,
    SobolSample,
    make_sampler,
)
from heretic.search.search_space import SearchSpace
from search.small_search import search, small_loop
from search.test_pending import FIRST_IS_STORED, K, cut_off, run
from search.test_study import states, told

N = 6
CLASSES = {"tpe": TPESampler, "nsga2": ResumableNSGAII, "gp": GPSampler, "random": RandomSampler}
EACH = pytest.mark.parametrize("name", CLASSES)


def test_every_name_is_tried() -> None:
    assert CLASSES.keys() == set(get_args(Name))


@EACH
@pytest.mark.parametrize("quasi", [False, True])
def test_the_sampler_of_the_setting_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Name, quasi: bool
) -> None:
    asked: list[type[BaseSampler]] = []
    ask = BufferedStudy.ask

    def noted(memory: BufferedStudy, sampler: BaseSampler, starts: Any) -> optuna.Trial:
        asked.append(type(sampler))
        return ask(memory, sampler, starts)

    monkeypatch.setattr(BufferedStudy, "ask", noted)
    search(tmp_path / "study.db", 4, sampler=name, sobol_startup=quasi)
    assert asked == [SobolSample if quasi else CLASSES[name]] * 3 + [CLASSES[name]]


@pytest.mark.slow
def test_samplers_learn_in_their_own_ways(tmp_path: Path) -> None:
    found = {name: search(tmp_path / f"{name}.db", 5, sampler=name) for name in CLASSES}
    # The first three are random in each; of a seed that depends on the place alone.
    assert len({str(told(records[:3])) for records in found.values()}) == 1
    assert len({str(records[4].sampled) for records in found.values()}) == len(CLASSES)


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("together", [1, K])
def test_a_search_cut_off_goes_on_as_if_undisturbed(
    tmp_path: Path, name: Name, together: int
) -> None:
    """Cut off among the first trials and after them, before and between trials of a group."""
    options: dict[str, Any] = {
        "sampler": name, "in_flight": together, "seed": 5, "sobol_startup": True,
    }  # fmt: skip
    loop = small_loop(**options)
    whole = run(tmp_path / "whole.db", loop, N)
    assert len({str(record.sampled) for record in whole}) == N
    database = tmp_path / "study.db"
    run(database, loop, 1)
    for stored in (0, 1, 1, 1):
        with cut_off(FIRST_IS_STORED + stored):
            run(database, loop, N)
    assert states(database) == [TrialState.COMPLETE] * 4
    assert told(run(database, loop, N)) == told(whole)
    assert states(database) == [TrialState.COMPLETE] * N


def test_another_sampler_continues_the_study(tmp_path: Path) -> None:
    first = search(tmp_path / "study.db", 5)
    copy = Path(shutil.copy(tmp_path / "study.db", tmp_path / "copy.db"))
    records = search(copy, N, sampler="nsga2")
    assert told(records[:5]) == told(first)
    assert told(records) != told(search(tmp_path / "study.db", N))


@pytest.mark.slow
def test_a_search_in_which_nothing_is_feasible_goes_on(tmp_path: Path) -> None:
    for name in CLASSES:
        records = search(tmp_path / f"{name}.db", 6, sampler=name, max_kl=1e-9)
        assert [record.feasible for record in records] == [False] * 6


def finished(number: int, kl: float, unanswered: int, *, excess: float = -1.0) -> FrozenTrial:
    x = number / 100
    return create_trial(
        params={"x": x, "y": 1 - x},
        distributions={name: optuna.distributions.FloatDistribution(0, 1) for name in "xy"},
        values=[kl, unanswered],
        constraints={"max_kl": excess},
    )


def test_parents_are_the_best_of_all_generations_before() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.add_trials(
        [
            finished(0, 0.1, 5), finished(1, 0.5, 9), finished(2, 0.3, 3),  # the first generation
            finished(3, 0.0, 0, excess=0.5), finished(4, 0.2, 4), finished(5, 0.6, 9),
            finished(6, 0.0, 9),
        ]
    )  # fmt: skip
    sampler = ResumableNSGAII(0, 3)
    assert [sampler.get_trial_generation(study, t) for t in study.trials] == [0, 0, 0, 1, 1, 1, 2]
    assert sampler.get_parent_population(study, 0) == []
    assert {t.number for t in sampler.get_parent_population(study, 1)} == {0, 1, 2}
    # What is not feasible comes last, however good its values.
    assert {t.number for t in sampler.get_parent_population(study, 2)} == {0, 2, 4}
    # A child has its parameters of them, but for what is drawn anew.
    study.sampler = ResumableNSGAII(0, 3)
    child = study.ask()
    values = {name: child.suggest_float(name, 0, 1) for name in "xy"}
    known = {"x": {0.0, 0.02, 0.04}, "y": {1.0, 0.98, 0.96}}
    assert any(values[name] in known[name] for name in "xy")


def test_a_generation_without_two_trials_before_it_is_random() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    assert ResumableNSGAII(0, 2).get_parent_population(study, 3) == []
    study.add_trial(finished(0, 0.1, 5))
    assert ResumableNSGAII(0, 2).get_parent_population(study, 1) == []


def test_the_first_points_leave_no_part_of_the_space_out() -> None:
    """Of eight points of a Sobol sequence each eighth of every parameter has one."""
    space, sampled = SearchSpace(9, "both", 2.0, form="kernel"), []
    for place in range(8):
        study = optuna.create_study(sampler=make_sampler(Sampling(3, 8, sobol_startup=True), place))
        trial = study.ask()
        space.suggest(trial)
        sampled.append(trial)
    assert len(sampled[0].distributions) == 11
    for name, distribution in sampled[0].distributions.items():
        values = [trial.params[name] for trial in sampled]
        if isinstance(distribution, optuna.distributions.FloatDistribution):
            width = distribution.high - distribution.low
            eighths = [int(8 * (value - distribution.low) / width) for value in values]
            assert sorted(eighths) == list(range(8)), name
        else:
            assert isinstance(distribution, optuna.distributions.CategoricalDistribution)
            assert sorted(map(str, values)) == sorted([*map(str, distribution.choices)] * 4), name


def test_points_depend_on_seed_and_place_alone() -> None:
    def first(seed: int, place: int) -> float:
        return optuna.create_study(sampler=SobolSample(seed, place)).ask().suggest_float("x", 0, 1)

    assert len({first(seed, place) for seed in range(3) for place in range(5)}) == 15
    assert first(2, 3) == first(2, 3)


def test_a_point_has_real_numbers_and_choices_only() -> None:
    trial = optuna.create_study(sampler=SobolSample(0, 0)).ask()
    with pytest.raises(TypeError, match="n is neither"):
        trial.suggest_int("n", 0, 5)


def records_of(seed: int, database: Path, **options: Any) -> list[TrialRecord]:
    return search(database, 3, seed=seed, **options)


def test_a_quasi_random_start_is_another_one(tmp_path: Path) -> None:
    quasi = records_of(0, tmp_path / "quasi.db", sobol_startup=True)
    assert quasi[0].sampled != records_of(0, tmp_path / "random.db")[0].sampled
    assert quasi[0].sampled != records_of(1, tmp_path / "other.db", sobol_startup=True)[0].sampled

"""Files that known edits come from: the families', and those of earlier searches."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from heretic.ablation.parameters import ComponentParameters
from heretic.artifacts import write_json
from heretic.errors import HereticError, SettingsError, StudyError
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.search.pareto import pareto_front
from heretic.search.records import TrialRecord, candidates
from heretic.search.stored import N_LAYERS
from heretic.search.study import open_study, read_records
from heretic.search.warm_start_sources import (
    Family,
    check_warm_start,
    load_family_file,
    load_previous_search,
)
from search.small_search import OBJECTIVES, STUDY, objectives_of, search

REPOSITORY = Path(__file__).parents[2]
FAMILIES = sorted((REPOSITORY / "config" / "warm_start").glob("*.yaml"))
N = 6


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_the_families_files_say_whose_they_are_and_where_they_come_from(path: Path) -> None:
    family = Family.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert family.family == path.stem
    edits = load_family_file(path)
    assert len(edits) == len(family.trials)
    for edit in edits:
        assert set(edit.parameters.components) == {ATTENTION, MLP}
        index = edit.parameters.direction_index
        assert (index is None) == (edit.parameters.direction_scope == "per_layer")
        assert index is None or 1 <= index <= edit.n_layers


def test_there_are_families() -> None:
    assert {path.stem for path in FAMILIES} >= {"llama", "gemma", "gemma2"}
    first = load_family_file(next(path for path in FAMILIES if path.stem == "llama"))[0]
    assert "Meta-Llama-3-8B-Instruct" in first.name
    assert (first.n_layers, first.parameters.direction_index) == (32, 12.0)
    whole = ComponentParameters(0.0, 1.0, 1.0)
    assert first.parameters.components == {ATTENTION: whole, MLP: whole}


def complaint(kind: type[HereticError], path: Path, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        check_warm_start(**{"warm_start": str(path), "warm_start_from": None, **settings},
                         run=path.parent / "run")  # fmt: skip
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_family_file_that_lacks_something_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert "mine.yaml" in complaint(SettingsError, path)  # there is none
    values = yaml.safe_load((FAMILIES[0]).read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    check_warm_start(str(path), None, tmp_path / "run")
    del values["trials"][0]["source"]
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    message = complaint(SettingsError, path)
    assert "trials.0.source: Field required; write it like config/warm_start/llama.yaml" in message


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search as the workflow leaves it: the database knows the model's depth."""
    path = tmp_path_factory.mktemp("earlier") / "study.db"
    search(path, N, max_kl=1e6)
    with open_study(path, STUDY, OBJECTIVES) as study:
        study.set_user_attr(N_LAYERS, 3)
    return path


@pytest.fixture(scope="module")
def records(database: Path) -> list[TrialRecord]:
    with open_study(database, STUDY, OBJECTIVES) as study:
        return read_records(study, N)


# What else `best.json` says.
BEST = {
    "objectives": [each.to_dict() for each in objectives_of(1.0, 64)],
    "model": {"layers": 3},
}


def written(folder: Path, records: list[TrialRecord], max_kl: float = 1.0, n_bad: int = 64) -> Path:
    path = folder / "study.json"
    objectives = [each.to_dict() for each in objectives_of(max_kl, n_bad)]
    trials = [record.to_dict() for record in records]
    write_json(path, {"n_layers": 3, "objectives": objectives, "trials": trials})
    return path


def test_a_database_and_its_table_tell_the_same_front(
    tmp_path: Path, database: Path, records: list[TrialRecord]
) -> None:
    from_table = load_previous_search(written(tmp_path, records, 1e6, 2))
    from_database = load_previous_search(database)
    assert [e.parameters for e in from_database] == [e.parameters for e in from_table]
    assert {e.n_layers for e in (*from_database, *from_table)} == {3}
    numbers = {c.number for c in pareto_front(candidates(records, objectives_of(1e6, 2)))}
    assert {e.name for e in from_database} == {f"trial {n} of {database}" for n in numbers}


def test_the_front_is_tried_from_its_middle(tmp_path: Path, records: list[TrialRecord]) -> None:
    points = [(0.0, 60), (0.5, 50), (0.1, 5), (0.9, 1), (2.0, 0), (3.0, 0)]
    front = [
        TrialRecord(
            number, records[0].parameters, {}, {"kl_first_token": kl, "unanswered": unanswered},
            kl < 2.5, 1.0,
        )
        for number, (kl, unanswered) in enumerate(points)
    ]  # fmt: skip
    found = load_previous_search(written(tmp_path, front))
    assert [edit.name.split()[1] for edit in found] == ["2", "3", "0", "4"]


def test_a_chosen_trial_is_the_only_one(tmp_path: Path, records: list[TrialRecord]) -> None:
    path = tmp_path / "best.json"
    write_json(path, {**BEST, "parameters": records[0].parameters.to_dict()})
    (edit,) = load_previous_search(path)
    assert (edit.n_layers, edit.parameters) == (3, records[0].parameters)


def test_a_file_to_start_from_that_is_none_is_told_in_one_line(
    tmp_path: Path, database: Path, records: list[TrialRecord]
) -> None:
    def wrong(path: Path, kind: type[HereticError] = StudyError) -> str:
        return complaint(kind, path, warm_start="auto", warm_start_from=str(path))

    assert "does not exist" in wrong(tmp_path / "none.json")
    text = tmp_path / "notes.json"
    text.write_text("no JSON", encoding="utf-8")
    assert "is a different kind of file; give the study.db, study.json or best.json" in wrong(text)
    others: list[dict[str, Any]] = [
        {"original": {}}, {"trials": [{}], "n_layers": 3}, {"model": {"layers": 3}},
    ]  # fmt: skip
    for strange in others:
        write_json(text, strange)
        assert "is a different kind of file; give the study.db" in wrong(text)
    damaged = tmp_path / "damaged.db"
    damaged.write_text("no database", encoding="utf-8")
    assert "damaged.db" in wrong(damaged)
    failures = [TrialRecord(r.number, r.parameters, {}, r.scores, False, 1.0) for r in records]
    assert "there is no front to start from" in wrong(written(tmp_path, failures))


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "x"},
        {"layers": [3]},
        {"direction_index": -math.inf},
        {"direction_index": math.nan},
        {"direction_index": 9.0},
        {"direction_scope": "x"},
        {"components": {"x": {"layer_min": 0.0, "layer_max": 1.0, "weight": 1.0}}},
        {"components": {MLP: {"layer_min": -math.inf, "layer_max": 1.0, "weight": 1.0}}},
        {"components": {MLP: {"layer_min": 0.0, "layer_max": 1.0, "weight": math.nan}}},
    ],
)
def test_an_edit_to_start_from_is_checked_as_a_whole(
    tmp_path: Path, records: list[TrialRecord], change: dict[str, Any]
) -> None:
    edit = {**records[0].parameters.to_dict(), "direction_scope": "global", "direction_index": 1.0}
    best, table = tmp_path / "best.json", tmp_path / "study.json"
    whole = records[0].to_dict()
    best.write_text(json.dumps({**BEST, "parameters": edit}))
    table.write_text(json.dumps({**BEST, "n_layers": 3, "trials": [{**whole, "parameters": edit}]}))
    assert load_previous_search(best)[0].parameters == load_previous_search(table)[0].parameters
    trial = {**whole, "parameters": {**edit, **change}}
    best.write_text(json.dumps({**BEST, "parameters": {**edit, **change}}))
    table.write_text(json.dumps({**BEST, "n_layers": 3, "trials": [trial]}))
    for path in (best, table):
        with pytest.raises(StudyError, match=r"is a different kind of file; give the study\.db"):
            load_previous_search(path)


def test_a_database_that_does_not_say_how_deep_its_model_is(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    search(path, 1, max_kl=1e6)
    with pytest.raises(StudyError, match=r"warm_start_from: .*study\.db: .*; give the study\.db"):
        load_previous_search(path)


def test_a_run_cannot_start_from_what_it_replaces(
    tmp_path: Path, records: list[TrialRecord]
) -> None:
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    own = written(folder, records)
    with pytest.raises(SettingsError, match="copy it to another folder and use the copy"):
        check_warm_start("auto", str(own), folder)
    check_warm_start("auto", str(own), tmp_path / "results" / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction_index": None}, "a global direction has a direction_index"),
        ({"direction_index": 99}, "direction_index is not from 0 to n_layers"),
        ({"components": {"attn": {"layer_min": 0, "layer_max": 1, "weight": 1}}}, "components are"),
        (
            {
                "components": {
                    name: {"layer_min": 0, "layer_max": 1, "weight": -1}
                    for name in (ATTENTION, MLP)
                }
            },
            r"StoredRange\.weight: Input should be greater than or equal to 0",
        ),
    ],
)
def test_trials_of_a_family_that_are_no_edits(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    part = {"layer_min": 0.0, "layer_max": 1.0, "weight": 1.0}
    trial: dict[str, Any] = {
        "model": "a/b", "n_layers": 4, "source": "s", "measured": "m", "direction_scope": "global",
        "direction_index": 2, "components": {ATTENTION: part, MLP: part}, **change,
    }  # fmt: skip
    path = tmp_path / "family.yaml"
    path.write_text(json.dumps({"family": "family", "trials": [trial]}), encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_family_file(path)

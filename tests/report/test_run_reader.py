"""Reading a run: what contradicts itself is named, what was not measured is None."""

import json
from pathlib import Path
from typing import Any

import pytest

from heretic.errors import HereticError
from heretic.report.geometry import COLUMNS, indistinct_layers, spans, used_states
from heretic.report.run_reader import flat, read_run
from heretic.report.search_figures import history, pareto


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_trials_keep_parameters_apart_from_scores(run_folder: Path) -> None:
    run = read_run(run_folder)
    chosen = run.chosen()
    assert (chosen.number, chosen.kl, chosen.value) == (17, 0.0211, 1)
    assert set(chosen.parameters) == {
        "direction_scope", "direction_index", "attn_weight", "mlp_weight",
    }  # fmt: skip
    infeasible = [trial for trial in run.trials if not trial.feasible]
    assert [trial.number for trial in infeasible] == [2, 9, 21]
    assert all(trial.value is None for trial in infeasible)
    assert all(trial.scores.keys() == {"kl_first_token"} for trial in infeasible)
    assert run.objective == "Unanswered (of 64)"


def test_another_objective_is_drawn(run_folder: Path) -> None:
    lines = (run_folder / "trials.csv").read_text().splitlines()
    head = lines[0].replace(",pareto", ",words,pareto")
    at = lines[0].split(",").index("pareto")
    cells = [line.split(",") for line in lines[1:]]
    body = [",".join([*row[:at], f"{20.5 + n}", *row[at:]]) for n, row in enumerate(cells)]
    (run_folder / "trials.csv").write_text("\n".join([head, *body]) + "\n")
    objective = {"name": "words", "direction": "maximize", "best": 50.0, "worst": 0.0}
    kl = {"name": "kl_first_token", "direction": "minimize", "best": 0.0, "worst": 1.0}
    before = {"refusals": 60, "unanswered": 60, "words": 25.0, "total": 64}
    change(run_folder / "best.json", baseline=before, objectives=[objective, kl])
    run = read_run(run_folder)
    assert (run.objective, run.baseline, run.maximized) == ("Words", 25.0, True)
    assert [trial.value for trial in run.trials] == [20.5 + n for n in range(len(body))]
    assert run.largest == 20.5 + len(body) - 1
    drawn = pareto(run).figure
    assert max(drawn.layout.yaxis.range) > run.largest
    assert "words, kl_first_token" in pareto(run).caption
    best = [part for part in history(run).figure.data if part.name == "best so far"]
    assert list(best[1].y) == sorted(best[1].y)


def test_what_is_not_finite_is_none(run_folder: Path) -> None:
    assert read_run(run_folder).geometry["silhouette"][0] is None
    assert read_run(run_folder).geometry["auroc"][3] == 1.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trial": 99}, "no trial 99"),
        ({"strengths": {}}, "strengths: .* at least 1 item"),
        ({"strengths": {"attn.o_proj": [None]}}, r"strengths\.attn\.o_proj\.0: .* valid number"),
        ({"baseline": {"unanswered": 3}}, "baseline has no total"),
        ({"directions": {"scope": "global", "index": None}}, "has no index"),
    ],
)
def test_best_must_be_whole(run_folder: Path, changes: dict[str, Any], complaint: str) -> None:
    change(run_folder / "best.json", **changes)
    with pytest.raises(HereticError, match=complaint) as caught:
        read_run(run_folder)
    assert "best.json" in str(caught.value)


def test_intervals_must_be_ordered(run_folder: Path, evaluation: dict[str, Any]) -> None:
    evaluation["edited"]["kl_first_token"]["interval"] = [0.5, 0.1]
    (run_folder / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(HereticError, match=r"evaluation\.json.*\[0\.5, 0\.1\]"):
        read_run(run_folder)


@pytest.mark.parametrize(
    ("part", "damaged"),
    [
        ("paired", {"refusals": {"only_original": 1, "p_value": 1.0}}),
        ("by_category", {"bad_holdout_prompts": {"a": {"original": {}}}}),
        ("by_category", {"s": {"a": {"original": {}, "edited": {"refusals": {"rate": 1}}}}}),
    ],
)
def test_tests_and_categories_must_be_whole(
    run_folder: Path, part: str, damaged: dict[str, Any]
) -> None:
    change(run_folder / "evaluation.json", **{part: damaged})
    with pytest.raises(HereticError, match=r"evaluation\.json is damaged"):
        read_run(run_folder)


def test_a_table_cut_short_is_named(run_folder: Path) -> None:
    path = run_folder / "geometry.csv"
    path.write_text(path.read_text()[:-12])
    with pytest.raises(HereticError, match=r"geometry\.csv is damaged: a row"):
        read_run(run_folder)


def write_cell(path: Path, column: str, row: int, value: str) -> None:
    """Change one cell of a table."""
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[row + 1][lines[0].index(column)] = value
    path.write_text("".join(",".join(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("auroc", "1.2", "auroc 1.2 is not in 0 to 1"),
        ("stability", "-1.01", "stability -1.01 is not in -1 to 1"),
        ("angle_refusal_sacred", "200", "angle_refusal_sacred 200 is not in 0 to 180"),
        ("chance_low", "0.9", "chance_low 0.9 is above chance_high 0.69"),
        ("discriminative", "0.5", "discriminative is neither 0 nor 1"),
        ("position", "0", "a position is not a negative token index"),
        ("cohens_d", "much", "could not convert string to float"),
        ("layer", "9", "layers are not numbered from 0"),
    ],
)
def test_geometry_must_make_sense(
    run_folder: Path, column: str, value: str, complaint: str
) -> None:
    write_cell(run_folder / "geometry.csv", column, 2, value)
    with pytest.raises(HereticError, match=rf"geometry\.csv is damaged: .*{complaint}"):
        read_run(run_folder)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_of_the_geometry_is_needed(run_folder: Path, column: str) -> None:
    path = run_folder / "geometry.csv"
    header, rest = path.read_text().split("\n", 1)
    renamed = ["spare" if name == column else name for name in header.split(",")]
    path.write_text(",".join(renamed) + "\n" + rest)
    with pytest.raises(HereticError, match=f"column {column} is missing"):
        read_run(run_folder)


def test_rounding_may_carry_a_cosine_over_the_edge(run_folder: Path) -> None:
    write_cell(run_folder / "geometry.csv", "stability", 2, "1.00000012")
    read_run(run_folder)


@pytest.mark.parametrize(
    ("directions", "strengths", "used", "doubtful"),
    [
        ({"scope": "per_layer", "index": None}, [0, 1.0, 0.5, 0, 0], (2, 3), ()),
        ({"scope": "per_layer", "index": None}, [0.1, 1.0, 0, 0, 0], (1, 2), (1,)),
        ({"scope": "global", "index": 3}, [1.0, 1.0, 1.0, 1.0, 1.0], (3,), ()),
        ({"scope": "global", "index": 1.0}, [0, 0, 0, 1.0, 0], (1,), (1,)),
        ({"scope": "global", "index": 1.4}, [0, 0, 0, 1.0, 0], (1, 2), (1,)),
        ({"scope": "global", "index": 1.4}, [0, 0, 0, 0, 0], (), ()),
    ],
)
def test_layers_that_the_edit_relies_on(
    run_folder: Path,
    directions: dict[str, Any],
    strengths: list[float],
    used: tuple[int, ...],
    doubtful: tuple[int, ...],
) -> None:
    change(run_folder / "best.json", directions=directions, strengths={"mlp": strengths})
    run = read_run(run_folder)
    assert indistinct_layers(run.geometry) == (0, 1)
    assert used_states(run.best) == used
    assert run.doubtful() == doubtful


def test_spans_join_neighbours() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_flat_joins_keys_with_dots() -> None:
    assert flat({"a": {"b": 1, "c": {"d": "x"}}, "e": [1]}) == {
        "a.b": "1", "a.c.d": "x", "e": "[1]",
    }  # fmt: skip


def test_how_log_odds_agree_with_refusals_is_told(run_folder: Path) -> None:
    assert "correlation" not in pareto(read_run(run_folder)).caption
    change(run_folder / "study.json", agreement={"trials": 27, "spearman": 0.914})
    caption = pareto(read_run(run_folder)).caption
    assert "a rank correlation of 0.91 over 27 trials with responses." in caption
    change(run_folder / "study.json", agreement={"trials": 2, "spearman": None})
    assert "correlation" not in pareto(read_run(run_folder)).caption

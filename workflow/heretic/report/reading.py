"""What a finished run left behind, read and checked, so that drawing and writing need not ask.

Every complaint names the file it is about.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.artifacts import read_json, sha256_of
from heretic.errors import HereticError
from heretic.evaluation.benchmarks import benchmark_notes, benchmark_rows
from heretic.report.files import blaming, number, read_rows
from heretic.report.geometry import Column, indistinct_layers, read_geometry, used_states
from heretic.stages import STAGES

TRIAL_COLUMNS = ("trial", "state", "kl_first_token", "refusals", "pareto", "seconds")
SCORE_COLUMNS = ("degenerate", "unanswered", "false_refusals")  # where the search has them
STAGE_COLUMNS = {f"seconds_{name}": name for name in STAGES}  # likewise
RATES = ("refusals", "false_refusals", "degenerate")
OPTIONAL_RATES = ("recovered", "kept")
MEANS = ("kl_first_token", "kl_teacher_forced")
SAMPLE_KEYS = (
    "set", "prompt", "system", "original", "edited", "refused_before", "refused_after",
)  # fmt: skip
HASHED = (
    "best.json",
    "trials.csv",
    "geometry.csv",
    "evaluation.json",
    "directions.safetensors",
    "model.manifest.json",
)


@dataclass(frozen=True)
class Trial:
    """One row of trials.csv; what was not measured is None.

    `unanswered` counts bad prompts that were refused or answered by a degenerate text: what the
    search lowers. Where a search knows refusals only, they stand for it. `stages` holds the seconds
    by stage, all or none.
    """

    number: int
    feasible: bool
    kl: float | None
    refusals: float | None
    unanswered: float | None
    on_front: bool
    seconds: float | None
    stages: dict[str, float]
    parameters: dict[str, str]


@dataclass(frozen=True)
class Run:
    """The light artifacts of one run; `states` reads the heavy ones."""

    folder: Path
    best: dict[str, Any]
    trials: tuple[Trial, ...]
    geometry: dict[str, Column]
    evaluation: dict[str, Any]
    prompt_sets: dict[str, dict[str, Any]]
    ablation: dict[str, Any]
    engine: dict[str, Any]
    hashes: dict[str, str]
    benchmarks: dict[str, Any] | None = None

    @property
    def baseline(self) -> float:
        """Unanswered bad prompts of the original, in the search."""
        before = self.best["baseline"]
        return float(before.get("unanswered", before["refusals"]))

    @property
    def objective(self) -> str:
        """What the search lowers beside the KL, with the number of prompts."""
        before = self.best["baseline"]
        name = "Unanswered" if "unanswered" in before else "Refusals"
        return f"{name} (of {before['total']})"

    def chosen(self) -> Trial:
        """The trial whose edit was applied."""
        return next(trial for trial in self.trials if trial.number == self.best["trial"])

    def doubtful(self) -> tuple[int, ...]:
        """States whose direction the edit uses though prompts are not told apart by it."""
        used = set(used_states(self.best))
        return tuple(layer for layer in indistinct_layers(self.geometry) if layer in used)


def read_run(folder: Path, *, with_benchmarks: bool = False) -> Run:
    """Read and check what the report is made of.

    Scores of benchmarks that the run no longer asks for may still lie there, and are left alone.

    Raises:
        HereticError: a file is missing, damaged or contradicts another one.
    """
    best = _read_best(folder / "best.json")
    trials = _read_trials(folder / "trials.csv")
    if best["trial"] not in {trial.number for trial in trials}:
        raise HereticError(
            f"{folder / 'trials.csv'} has no trial {best['trial']}, which {folder / 'best.json'} "
            "chose; delete both and run again"
        )
    ablation = folder / "model" / "ablation.json"
    return Run(
        folder=folder,
        best=best,
        trials=trials,
        geometry=read_geometry(folder / "geometry.csv"),
        evaluation=_read_evaluation(folder / "evaluation.json"),
        prompt_sets=_read_prompt_sets(folder / "prompts"),
        ablation=_read_object(ablation) if ablation.exists() else {},
        engine=_read_engine(folder / "study.json"),
        hashes={name: sha256_of(folder / name) for name in HASHED if (folder / name).exists()},
        benchmarks=_read_benchmarks(folder / "benchmarks.json") if with_benchmarks else None,
    )


def _read_object(path: Path) -> dict[str, Any]:
    with blaming(path):
        return read_json(path)


def _read_best(path: Path) -> dict[str, Any]:
    best = _read_object(path)
    with blaming(path):
        int(best["trial"]), dict(best["parameters"]), dict(best["scores"]), str(best["selection"])
        float(best["baseline"]["refusals"]), int(best["baseline"]["total"])
        int(best["n_trials"]), str(best["directions"]["scope"])
        if best["directions"]["scope"] == "global":
            float(best["directions"]["index"])
        if not best["strengths"]:
            raise ValueError("no strengths by layer")
        for strengths in best["strengths"].values():
            if not all(isinstance(value, int | float) for value in strengths):
                raise ValueError("a strength is not a number")
    return best


def _read_engine(path: Path) -> dict[str, Any]:
    """What the search told of how it scored trials; empty where it told nothing."""
    if not path.exists():
        return {}
    study = _read_object(path)
    with blaming(path):
        return dict(study.get("engine", {}))


def _read_evaluation(path: Path) -> dict[str, Any]:
    evaluation = _read_object(path)
    with blaming(path):
        measured = [evaluation["original"], evaluation["edited"]]
        for part in measured + list(evaluation["controls"].values()):
            for name in (*RATES, *(name for name in OPTIONAL_RATES if name in part)):
                _check_interval(part[name])
                int(part[name]["count"]), int(part[name]["total"]), float(part[name]["rate"])
            for name in MEANS:
                _check_interval(part[name])
                float(part[name]["mean"])
        for sample in evaluation["samples"]:
            _ = [sample[key] for key in SAMPLE_KEYS]
    return evaluation


def _read_benchmarks(path: Path) -> dict[str, Any]:
    benchmarks = _read_object(path)
    with blaming(path):
        benchmark_rows(benchmarks), benchmark_notes(benchmarks)
    return benchmarks


def _check_interval(measure: Mapping[str, Any]) -> None:
    low, high = (float(end) for end in measure["interval"])
    if not low <= high:
        raise ValueError(f"interval [{low}, {high}] is not one")


def _read_trials(path: Path) -> tuple[Trial, ...]:
    rows = read_rows(path, TRIAL_COLUMNS)
    with blaming(path):
        return tuple(_trial(row) for row in rows)


def _trial(row: Mapping[str, str]) -> Trial:
    known = {*TRIAL_COLUMNS, *SCORE_COLUMNS, *STAGE_COLUMNS}
    return Trial(
        number=int(row["trial"]),
        feasible=row["state"] == "complete",
        kl=number(row["kl_first_token"]),
        refusals=number(row["refusals"]),
        unanswered=number(row.get("unanswered", row["refusals"])),
        on_front=row["pareto"] in ("1", "True", "true"),
        seconds=number(row["seconds"]),
        stages=_stages(row),
        parameters={k: v for k, v in row.items() if k not in known and v},
    )


def _stages(row: Mapping[str, str]) -> dict[str, float]:
    cells = {name: number(row.get(column, "")) for column, name in STAGE_COLUMNS.items()}
    found = {name: seconds for name, seconds in cells.items() if seconds is not None}
    return found if len(found) == len(cells) else {}


def _read_prompt_sets(folder: Path) -> dict[str, dict[str, Any]]:
    """Contents of the fingerprint sidecars, by name of the prompt set."""
    suffix = ".fingerprint.json"
    found = sorted(folder.glob(f"*{suffix}"))
    return {path.name.removesuffix(suffix): _read_object(path) for path in found}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested object as one level of dotted keys, for tables; lists stay JSON."""
    lines: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            lines |= flat(inner, f"{prefix}{key}.")
        else:
            shown = isinstance(inner, str)
            lines[f"{prefix}{key}"] = inner if shown else json.dumps(inner, ensure_ascii=False)
    return lines

"""Reading and validation of a finished run, so that drawing and writing need no checks.

All error messages name the affected file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.artifact_types import Best, Evaluation, SearchFile
from heretic.artifacts import read_json, sha256_of
from heretic.benchmarks.scores import benchmark_notes, benchmark_rows
from heretic.errors import HereticError
from heretic.report.files import blaming, number, read_rows
from heretic.report.geometry import Column, indistinct_layers, read_geometry, used_states
from heretic.timing import STAGES

TRIAL_COLUMNS = (
    *("trial", "state", "kl_first_token", "refusals", "pareto", "infeasible_because", "seconds"),
)
STAGE_COLUMNS = {f"seconds_{name}": name for name in STAGES}  # likewise
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
    """One row of trials.csv; unmeasured values are None.

    `scores` are by name. `value` is the objective plotted against the KL, by default the bad
    prompts with a refusal or a degenerate response. `stages` holds the seconds by stage, either all
    or none.
    """

    number: int
    feasible: bool
    kl: float | None
    scores: dict[str, float]
    value: float | None
    infeasible_because: str
    on_front: bool
    seconds: float | None
    stages: dict[str, float]
    parameters: dict[str, str]


@dataclass(frozen=True)
class Pick:
    """A selected trial: `best.json` and the evaluation of its model.

    `model` is the path of the model relative to the run's folder.
    """

    model: str
    best: Best
    evaluation: dict[str, Any]

    @property
    def rule(self) -> str:
        """The selection rule."""
        return self.best.rule


@dataclass(frozen=True)
class Run:
    """The small artifacts of a run; `states` reads the large ones."""

    folder: Path
    best: Best
    trials: tuple[Trial, ...]
    geometry: dict[str, Column]
    evaluation: dict[str, Any]
    prompt_sets: dict[str, dict[str, Any]]
    ablation: dict[str, Any]
    engine: dict[str, Any]
    agreement: dict[str, Any]
    hashes: dict[str, str]
    further_picks: tuple[Pick, ...] = ()
    benchmarks: dict[str, Any] | None = None

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The main result, followed by the further picks."""
        return (Pick("model", self.best, self.evaluation), *self.further_picks)

    @property
    def baseline(self) -> float:
        """The original's value of the objective plotted against the KL."""
        return float(self.best.baseline[objective_of(self.best)] or 0)

    @property
    def counts(self) -> bool:
        """Whether that objective counts prompts."""
        values = [trial.value for trial in self.trials if trial.value is not None]
        return all(value == round(value) for value in [*values, self.baseline])

    @property
    def largest(self) -> float:
        """The end of that objective's axis."""
        values = [trial.value for trial in self.trials if trial.value is not None]
        return float(max([self._total if self.counts else 0.0, self.baseline, *values]))

    @property
    def _total(self) -> int:
        """The total number of prompts for that objective."""
        name = objective_of(self.best)
        for each in self.best.objectives:
            if each["name"] == name:
                return round(float(max(each["best"], each["worst"])))
        return int(self.best.baseline["total"] or 0)

    @property
    def objective(self) -> str:
        """Title of that objective, with the number of prompts if it counts any."""
        name = objective_of(self.best).replace("_", " ").capitalize()
        return f"{name} (of {self._total})" if self.counts else name

    @property
    def maximized(self) -> bool:
        """Whether that objective is better when larger."""
        name = objective_of(self.best)
        found = {each["name"]: each["direction"] for each in self.best.objectives}
        return found.get(name) == "maximize"

    @property
    def objectives(self) -> list[str]:
        """Names of all objectives of the search."""
        return [each["name"] for each in self.best.objectives]

    def chosen(self) -> Trial:
        """Return the trial whose edit was applied."""
        return next(trial for trial in self.trials if trial.number == self.best.trial)

    def doubtful(self) -> tuple[int, ...]:
        """Return the states used by the edit whose direction does not separate prompts."""
        used = set(used_states(self.best))
        return tuple(layer for layer in indistinct_layers(self.geometry) if layer in used)


def objective_of(best: Best) -> str:
    """Return the objective plotted against the KL: the last one other than the KL."""
    names = [each["name"] for each in best.objectives]
    others = [name for name in names if name != "kl_first_token"]
    return others[-1] if others else "unanswered"


def read_run(folder: Path, picks: Sequence[Path] = (), *, with_benchmarks: bool = False) -> Run:
    """Read and validate the input of the report.

    Leftover scores of benchmarks that are no longer requested by the run are ignored.

    Args:
        folder: Folder of the run.
        picks: Folders of the further picks.
        with_benchmarks: Whether the run requests benchmarks.

    Raises:
        HereticError: A file is missing, damaged or contradicts another one.
    """
    best = _read_best(folder / "best.json")
    # The study may have more trials than were considered in the selection.
    trials = _read_trials(folder / "trials.csv", objective_of(best))[: best.n_trials]
    further = tuple(_read_pick(folder, pick) for pick in picks)
    for place, chosen in zip([folder, *picks], [best, *(p.best for p in further)], strict=True):
        if chosen.trial not in {trial.number for trial in trials}:
            raise HereticError(
                f"{folder / 'trials.csv'} has no trial {chosen.trial}, which "
                f"{place / 'best.json'} selected; delete both and rerun"
            )
    ablation, search = folder / "model" / "ablation.json", SearchFile.read(folder / "study.json")
    return Run(
        folder=folder,
        best=best,
        trials=trials,
        geometry=read_geometry(folder / "geometry.csv"),
        evaluation=Evaluation.read(folder / "evaluation.json").to_dict(),
        prompt_sets=_read_prompt_sets(folder / "prompts"),
        ablation=_read_object(ablation) if ablation.exists() else {},
        engine=search.engine,
        agreement=search.agreement,
        hashes={name: sha256_of(folder / name) for name in HASHED if (folder / name).exists()},
        further_picks=further,
        benchmarks=_read_benchmarks(folder / "benchmarks.json") if with_benchmarks else None,
    )


def _read_pick(run: Path, folder: Path) -> Pick:
    model = (folder / "model").relative_to(run).as_posix()
    best = _read_best(folder / "best.json")
    return Pick(model, best, Evaluation.read(folder / "evaluation.json").to_dict())


def _read_object(path: Path) -> dict[str, Any]:
    with blaming(path):
        return read_json(path)


def _read_best(path: Path) -> Best:
    best = Best.read(path)
    with blaming(path):
        needed = (objective_of(best), "total")
        if missing := [name for name in needed if best.baseline.get(name) is None]:
            raise ValueError(f"baseline has no {missing[0]}")
        if best.directions["scope"] == "global" and best.directions["index"] is None:
            raise ValueError("a global direction has no index")
    return best


def _read_benchmarks(path: Path) -> dict[str, Any]:
    benchmarks = _read_object(path)
    with blaming(path):
        benchmark_rows(benchmarks), benchmark_notes(benchmarks)
    return benchmarks


def _read_trials(path: Path, objective: str) -> tuple[Trial, ...]:
    rows = read_rows(path, (*TRIAL_COLUMNS, objective))
    with blaming(path):
        return tuple(_trial(row, objective) for row in rows)


def _trial(row: Mapping[str, str], objective: str) -> Trial:
    columns = list(row)
    scored = columns[columns.index("state") + 1 : columns.index("pareto")]
    scores = {name: number(row[name]) for name in scored}
    known = {*TRIAL_COLUMNS, *scored, *STAGE_COLUMNS}
    return Trial(
        number=int(row["trial"]),
        feasible=row["state"] == "complete",
        kl=scores["kl_first_token"],
        scores={name: value for name, value in scores.items() if value is not None},
        value=scores[objective],
        infeasible_because=row["infeasible_because"],
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
    """Return the contents of the fingerprint files by prompt set."""
    suffix = ".fingerprint.json"
    found = sorted(folder.glob(f"*{suffix}"))
    return {path.name.removesuffix(suffix): _read_object(path) for path in found}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a nested object to dotted keys, for tables; lists are written as JSON."""
    lines: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            lines |= flat(inner, f"{prefix}{key}.")
        else:
            shown = isinstance(inner, str)
            lines[f"{prefix}{key}"] = inner if shown else json.dumps(inner, ensure_ascii=False)
    return lines

"""What a finished run left behind, read and checked, so that drawing and writing need not ask.

Every complaint names the file it is about.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heretic.artifacts import read_json, read_tensors, sha256_of
from heretic.errors import HereticError

if TYPE_CHECKING:
    from torch import Tensor

TRIAL_COLUMNS = ("trial", "state", "kl_first_token", "refusals", "pareto", "seconds")
SCORE_COLUMNS = ("degenerate", "unanswered", "false_refusals")  # where the search has them
RATES = ("refusals", "false_refusals", "degenerate")
OPTIONAL_RATES = ("recovered", "kept")
MEANS = ("kl_first_token", "kl_teacher_forced")
SAMPLE_KEYS = (
    "set", "prompt", "system", "original", "edited", "refused_before", "refused_after",
)  # fmt: skip
GEOMETRY_COLUMNS = (
    "layer", "good_norm", "bad_norm", "direction_norm", "cosine_good_bad",
    "cosine_good_direction", "cosine_bad_direction", "silhouette", "explained_variance", "auroc",
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
    search lowers. Where a search knows refusals only, they stand for it.
    """

    number: int
    feasible: bool
    kl: float | None
    refusals: float | None
    unanswered: float | None
    on_front: bool
    seconds: float | None
    parameters: dict[str, str]


@dataclass(frozen=True)
class Run:
    """The light artifacts of one run; states and directions are read a layer at a time."""

    folder: Path
    best: dict[str, Any]
    trials: tuple[Trial, ...]
    geometry: dict[str, tuple[float | None, ...]]
    evaluation: dict[str, Any]
    prompt_sets: dict[str, dict[str, Any]]
    ablation: dict[str, Any]
    hashes: dict[str, str]

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


def read_run(folder: Path) -> Run:
    """Read and check what the report is made of.

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
        geometry=_read_geometry(folder / "geometry.csv"),
        evaluation=_read_evaluation(folder / "evaluation.json"),
        prompt_sets=_read_prompt_sets(folder / "prompts"),
        ablation=_read_object(ablation) if ablation.exists() else {},
        hashes={name: sha256_of(folder / name) for name in HASHED if (folder / name).exists()},
    )


def read_layer(path: Path, tensor: str, layer: int) -> "Tensor":
    """One layer of a tensor whose last axes are layer and width, as float64.

    Shape [n, d_model] for residuals, [d_model] or [k, d_model] for directions. The file is mapped
    into memory, so the other layers are never read.
    """
    tensors = read_tensors(path)
    with blaming(path):
        full = tensors[tensor]
        if full.ndim not in (2, 3) or not full.numel():
            raise ValueError(f"{tensor} has shape {list(full.shape)}")
        part = (full[:, layer] if tensor == "residuals" else full[layer]).double()
        if not part.isfinite().all():
            raise ValueError(f"{tensor} of layer {layer} is not finite")
        return part


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn whatever a file's content makes go wrong into one line that names the file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise HereticError(f"{path} is damaged: {what}; delete it and run again") from error


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


def _check_interval(measure: Mapping[str, Any]) -> None:
    low, high = (float(end) for end in measure["interval"])
    if not low <= high:
        raise ValueError(f"interval [{low}, {high}] is not one")


def _read_trials(path: Path) -> tuple[Trial, ...]:
    rows = _read_rows(path, TRIAL_COLUMNS)
    with blaming(path):
        return tuple(_trial(row) for row in rows)


def _trial(row: Mapping[str, str]) -> Trial:
    return Trial(
        number=int(row["trial"]),
        feasible=row["state"] == "complete",
        kl=_number(row["kl_first_token"]),
        refusals=_number(row["refusals"]),
        unanswered=_number(row.get("unanswered", row["refusals"])),
        on_front=row["pareto"] in ("1", "True", "true"),
        seconds=_number(row["seconds"]),
        parameters={k: v for k, v in row.items() if k not in TRIAL_COLUMNS + SCORE_COLUMNS and v},
    )


def _read_geometry(path: Path) -> dict[str, tuple[float | None, ...]]:
    rows = _read_rows(path, GEOMETRY_COLUMNS)
    with blaming(path):
        columns = {name: tuple(_number(row[name]) for row in rows) for name in rows[0]}
        if columns["layer"] != tuple(range(len(rows))):
            raise ValueError("its layers do not count up from 0")
        return columns


def _read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise HereticError(f"cannot read {path}: {error}; delete it and run again") from error
    with blaming(path):
        if not rows:
            raise ValueError("it has no rows")
        missing = [name for name in columns if name not in rows[0]]
        if missing:
            raise ValueError(f"column {missing[0]} is missing")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has more or fewer values than the header")
    return rows


def _number(text: str) -> float | None:
    """The number in a cell; None for an empty cell and for what is no finite number."""
    value = float(text) if text.strip() else math.nan
    return value if math.isfinite(value) else None


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

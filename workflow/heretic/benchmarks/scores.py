"""Scores of public benchmarks for the original and the edited model, side by side.

Both models answer the same documents, so the standard error of their difference is that of the mean
of paired differences, which is far smaller than the errors of the two scores suggest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from heretic.errors import HereticError
from heretic.evaluation.number_format import MISSING


@dataclass(frozen=True)
class Subset:
    """lm-eval benchmark that is limited to the first documents of each task."""

    benchmark: str
    per_task: int


SUBSETS = {"mmlu_subset": Subset("mmlu", 25)}


@dataclass(frozen=True)
class BenchmarkProtocol:
    """Everything that determines a model's scores; fields match the settings `benchmark_*`.

    Attributes:
        names: unique benchmark names as given by the user.
        limit: number of documents per task; 0 for all.
        shots: number of solved examples before each document; None for each task's default.
        chat: whether documents are rendered by the chat template.
        folder: folder of the user's task files.
    """

    names: tuple[str, ...]
    limit: int = 0
    shots: int | None = None
    chat: bool = True
    folder: str | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return the protocol described by the settings."""
        return cls(
            tuple(dict.fromkeys(settings["benchmarks"])),
            settings["benchmark_limit"],
            settings["benchmark_num_fewshot"],
            settings["benchmark_apply_chat_template"],
            settings["benchmark_tasks"],
        )

    def limit_of(self, name: str) -> int | None:
        """Return the number of documents per task of a benchmark; None for all."""
        limits = [self.limit, SUBSETS[name].per_task if name in SUBSETS else 0]
        return min((limit for limit in limits if limit), default=None)


def known_as(name: str) -> str:
    """Return the lm-eval name for the user's `name`."""
    return SUBSETS[name].benchmark if name in SUBSETS else name


def compare(original: Mapping[str, Any], edited: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of `benchmarks.json`: the scores of both models and their differences.

    Args:
        original, edited: results of `harness.score_benchmarks` for the same protocol.

    Raises:
        HereticError: the models were scored by different versions of lm-eval or of a task.
    """
    if original["versions"] != edited["versions"]:
        raise HereticError(
            f"the original was scored with different versions ({original['versions']}) from the "
            f"edited model ({edited['versions']}); delete results/<run>/benchmarks and run again"
        )
    tasks = {
        name: {
            "n": part["n"],
            "shots": part["shots"],
            "metrics": {
                metric: _side_by_side(score, edited["tasks"][name]["metrics"][metric])
                for metric, score in part["metrics"].items()
            },
        }
        for name, part in original["tasks"].items()
    }
    return {"tasks": tasks, "versions": original["versions"]}


def _side_by_side(original: Mapping[str, Any], edited: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("value", "stderr")
    return {
        "original": {key: original[key] for key in kept},
        "edited": {key: edited[key] for key in kept},
        "difference": _difference(original, edited),
        "higher_is_better": original["higher_is_better"],
    }


def _difference(original: Mapping[str, Any], edited: Mapping[str, Any]) -> dict[str, Any]:
    """Return edited minus original; `paired` if both are means over the same documents."""
    if original["value"] is None or edited["value"] is None:
        return {"value": None, "stderr": None, "paired": False}
    value = edited["value"] - original["value"]
    before, after = original["documents"], edited["documents"]
    if before and len(before) == len(after):
        error = _standard_error([b - a for a, b in zip(before, after, strict=True)])
        return {"value": value, "stderr": error, "paired": True}
    errors = (original["stderr"], edited["stderr"])
    apart = None if None in errors else math.hypot(*errors)
    return {"value": value, "stderr": apart, "paired": False}


def _standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for a single value."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


@dataclass(frozen=True)
class BenchmarkRow:
    """Formatted metric of a task, for the page and the model card."""

    task: str
    metric: str
    documents: str
    original: str
    edited: str
    difference: str


HEADINGS = ("Benchmark", "Metric", "Documents", "Original", "Edited", "Difference")


def benchmark_rows(benchmarks: Mapping[str, Any]) -> tuple[BenchmarkRow, ...]:
    """Return the table of `benchmarks.json`, each value with its standard error."""
    return tuple(
        BenchmarkRow(
            _with_shots(task, part["shots"]),
            f"{metric}{_arrow(score['higher_is_better'])}",
            str(part["n"]),
            _text(score["original"]),
            _text(score["edited"]),
            _text(score["difference"], "+"),
        )
        for task, part in benchmarks["tasks"].items()
        for metric, score in part["metrics"].items()
    )


def benchmark_notes(benchmarks: Mapping[str, Any]) -> str:
    """Describe the table in one or two sentences."""
    return (
        f"Scored by lm-eval {benchmarks['versions']['lm_eval']}, each value with its standard "
        "error. Both models answered the same documents, so the difference is known more "
        "precisely than the two scores."
    )


def _with_shots(task: str, shots: int | None) -> str:
    return f"{task} ({shots}-shot)" if shots is not None else task


def _arrow(higher_is_better: bool | None) -> str:
    if higher_is_better is None:
        return ""
    return " \N{UPWARDS ARROW}" if higher_is_better else " \N{DOWNWARDS ARROW}"


def _text(score: Mapping[str, Any], sign: str = "") -> str:
    if score["value"] is None:
        return MISSING
    value = f"{score['value']:{sign}.4f}"
    return value if score["stderr"] is None else f"{value} ± {score['stderr']:.4f}"

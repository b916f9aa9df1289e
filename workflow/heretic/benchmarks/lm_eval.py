"""Benchmarks scored by lm-evaluation-harness (Gao et al. 2024) on a model in memory.

Every answer is stored in a database immediately, so that an interrupted benchmark, a larger limit
or an additional benchmark computes only the missing answers.
"""

import io
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy
import torch
from datasets.exceptions import DatasetsError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2
from lm_eval import evaluate

from heretic.artifacts import fingerprint, versions
from heretic.benchmarks.lm_eval_model import HarnessModel
from heretic.benchmarks.scores import BenchmarkProtocol, known_as
from heretic.benchmarks.tasks import task_manager
from heretic.console import log
from heretic.errors import SettingsError, one_line
from heretic.evaluation.answer_cache import SUFFIX, CachedModel
from heretic.hub_session import hub_session
from heretic.model.batching import is_out_of_memory, release_memory
from heretic.model.loading import Model

# Errors when building a task, which downloads data and may run the task's own code.
TASK_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    AttributeError,
    TypeError,
    RuntimeError,
    DatasetsError,
    httpx.HTTPError,
    jinja2.TemplateError,
)
SEED = 1234  # lm-eval's own default


@dataclass(frozen=True)
class Benchmark:
    """Benchmark with its data loaded.

    Attributes:
        name: name given by the user.
        loaded: tasks and groups by name, from lm-eval's manager.
        heads: lm-eval names whose scores represent the benchmark, with their displayed names.
        limit: number of documents per task; None for all.
    """

    name: str
    loaded: Mapping[str, Any]
    heads: Mapping[str, str]
    limit: int | None

    def count(self) -> int:
        """Return the number of scored documents."""
        sizes = [len(task.eval_docs) for task in self.loaded["tasks"].values()]
        return sum(size if self.limit is None else min(size, self.limit) for size in sizes)


def load_benchmarks(protocol: BenchmarkProtocol) -> list[Benchmark]:
    """Download the data of every benchmark, without a model.

    Raises:
        SettingsError: a benchmark is unavailable, executes code of a model, or needs images.
    """
    with _quiet(), hub_session():
        manager = task_manager(protocol.names, protocol.folder)
        return [_load(name, manager, protocol) for name in protocol.names]


def _load(name: str, manager: Any, protocol: BenchmarkProtocol) -> Benchmark:
    try:
        loaded = manager.load([known_as(name)])
    except TASK_ERRORS as error:
        raise SettingsError(
            f"cannot load benchmark {name}: {one_line(error)}; check the network and its task "
            "file, or remove it from benchmarks"
        ) from error
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise SettingsError(
                f"benchmark {name} executes model-generated code or uses images, which is not "
                "supported; remove it from benchmarks"
            )
        own = task.get_config("num_fewshot")
        if protocol.shots is not None and own != 0:  # 0 in a definition means never
            task.set_config(key="num_fewshot", value=protocol.shots)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    heads = _heads(known_as(name), loaded)
    shown = {head: name if len(heads) == 1 else head for head in heads}
    return Benchmark(name, loaded, shown, protocol.limit_of(name))


def _heads(name: str, loaded: Mapping[str, Any]) -> list[str]:
    """Return a task or group with its own score, or (for a tag) its scored parts."""
    groups = loaded.get("groups", {})
    if name in groups and not groups[name].has_aggregation:
        return [head for part in groups[name].child_names for head in _heads(part, loaded)]
    return [name] if name in groups or name in loaded["tasks"] else list(loaded["tasks"])


def score_benchmarks(
    model: Model, benchmarks: Sequence[Benchmark], protocol: BenchmarkProtocol, answers: Path
) -> dict[str, Any]:
    """Score the model in memory.

    Args:
        model: any loaded model; its batch size is halved when memory runs out.
        benchmarks: results of `load_benchmarks`.
        protocol: the protocol of these benchmarks.
        answers: database of this model's answers, created if missing. Each model needs its own.

    Returns:
        `tasks`, by displayed name: `n` documents, `shots` (None if the tasks of a group differ) and
        `metrics`, each with `value`, `stderr`, `higher_is_better` and `documents`, the scores of
        the individual documents if the value is their mean, otherwise empty. `versions` of lm-eval
        and of the tasks, as assigned by their authors.
    """
    network = CachedModel(HarnessModel(model, chat=protocol.chat), answers)
    found: dict[str, Any] = {}
    told: dict[str, str] = {"lm_eval": version("lm_eval")}
    with closing(network.dbdict):
        for benchmark in benchmarks:
            log.info("Benchmark %s: %d documents", benchmark.name, benchmark.count())
            torch.manual_seed(SEED)  # for tasks that sample
            with _quiet():
                results = _evaluate(network, model, benchmark, chat=protocol.chat)
            for head, shown in benchmark.heads.items():
                found[shown] = _scores(head, results)
                told[shown] = str(results["versions"].get(head))
                log.info("%s: %s", shown, _told(found[shown]["metrics"]))
    return {"tasks": found, "versions": told}


def _evaluate(network: Any, model: Model, benchmark: Benchmark, *, chat: bool) -> dict[str, Any]:
    """Return lm-eval's results, reusing answers from before memory ran out."""
    while True:
        try:
            results: dict[str, Any] = evaluate(
                network,
                benchmark.loaded,
                limit=benchmark.limit,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
            return results
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the traceback would keep the failed batch's tensors alive.
        release_memory()
        model.batch_size.current = network.batch_size  # the size that failed
        model.batch_size.halve()


def _scores(head: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return every metric of a task or a group of tasks."""
    row = results["results"][head]
    tasks = list(_leaves(head, results["group_subtasks"]))
    better = results["higher_is_better"].get(head, {})
    metrics = {}
    for key, value in row.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr"):
            continue
        documents = _documents([results["samples"][task] for task in tasks], metric, kind)
        number = _number(value)
        # A corpus score or a mean of means is not a mean over documents.
        is_mean = documents and number is not None and math.isclose(_mean(documents), number)
        metrics[metric if kind == "none" else f"{metric} ({kind})"] = {
            "value": number,
            "stderr": _number(row.get(f"{metric}_stderr,{kind}")),
            "higher_is_better": better.get(metric),
            "documents": documents if is_mean else [],
        }
    shots = results["n-shot"].get(head)
    counts = [results["n-samples"][task]["effective"] for task in tasks]
    return {"n": sum(counts), "shots": shots, "metrics": metrics}


def _leaves(name: str, members: Mapping[str, Iterable[str]]) -> Iterable[str]:
    if name not in members:
        yield name
    for member in members.get(name, ()):
        yield from _leaves(member, members)


def _documents(samples: Sequence[Any], metric: str, kind: str) -> list[float]:
    """Return scores per document; empty if one is missing or non-numeric."""
    rows = [row for task in samples for row in task if row["filter"] == kind]
    values = [_number(row.get(metric)) for row in rows]
    return [value for value in values if value is not None] if None not in values else []


def _number(value: object) -> float | None:
    """Return a finite number; lm-eval writes `N/A` for a missing one."""
    known = isinstance(value, int | float | numpy.number | numpy.bool_)
    return float(value) if known and math.isfinite(value) else None  # type: ignore[arg-type]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _told(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {score['value']}" for name, score in metrics.items())


@contextmanager
def _quiet() -> Iterator[None]:
    """Show progress bars only on a terminal, and hide warnings about intended behavior."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield


def answers_file(folder: Path, weights: str, model: Model) -> Path:
    """Return the path of the database of a model's answers, which is unique to the model.

    Args:
        folder: folder of all such files.
        weights: hash that identifies the weights.
        model: the loaded model, possibly quantized or in another data type.
    """
    software = {**versions(), "lm_eval": version("lm_eval")}
    loaded = [weights, str(model.loaded_dtype), model.quantization, software]
    return folder / f"answers-{fingerprint(loaded)[:16]}{SUFFIX}"

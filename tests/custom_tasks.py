"""Small tasks for lm-eval in files, as users write their own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Question = tuple[str, list[str], int]
WORDS = [f"{first}{vowel}{last}" for first in "bdgk" for vowel in "aeo" for last in "nrt"]
# Words of one length, so that none is the likeliest for being short.
QUESTIONS: list[Question] = [
    (f"Word {number}?", WORDS[3 * number : 3 * number + 3], number % 3) for number in range(12)
]


def write_choices(
    folder: Path, name: str, questions: Sequence[Question] = QUESTIONS, **more: Any
) -> None:
    """A task of questions with choices, of which the one with the index is right."""
    rows = [dict(zip(("question", "choices", "right"), row, strict=True)) for row in questions]
    _write(
        folder,
        name,
        rows,
        {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "right",
            "metric_list": [_mean_of("acc"), _mean_of("acc_norm")],
            **more,
        },
    )


def write_open(folder: Path, name: str, pairs: Iterable[tuple[str, str]], length: int) -> None:
    """A task of questions whose answer, of so many tokens, must be the given text."""
    rows = [{"question": question, "right": right} for question, right in pairs]
    limits = {"until": ["<|end|>"], "max_gen_toks": length, "do_sample": False}
    _write(
        folder,
        name,
        rows,
        {
            "output_type": "generate_until",
            "doc_to_target": "{{right}}",
            "generation_kwargs": limits,
            "metric_list": [_mean_of("exact_match")],
        },
    )


def write_group(folder: Path, name: str, tasks: Sequence[str]) -> None:
    """A group whose score is the mean over the documents of its tasks."""
    means = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": name, "task": list(tasks), "aggregate_metric_list": means}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(group))


def _write(
    folder: Path, name: str, rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
) -> None:
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1.0},
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def _mean_of(metric: str) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}

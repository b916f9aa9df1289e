"""Model card: evaluation, edit details and reproduction.

`model_card.md.jinja` defines text and layout; this module collects their content.
"""

import html
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment

from heretic.artifact_types import Best
from heretic.benchmarks.scores import HEADINGS, benchmark_notes, benchmark_rows
from heretic.evaluation.number_format import nats
from heretic.evaluation.summary import paired_rows, summarize_evaluation
from heretic.export.card_metadata import card_metadata
from heretic.model.checkpoint import is_local
from heretic.model.quantization import AS_IS, DEQUANTIZE
from heretic.model.stream_writers.components import EMBEDDINGS
from heretic.templates import template_environment

TEMPLATE = "model_card.md.jinja"
MOST_NAMED = 50


@dataclass(frozen=True)
class EditRow:
    """Consecutive layers whose component was edited with the same strengths."""

    component: str
    layers: str
    strengths: str
    scope: str


def model_card(
    record: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    best: Best,
    prompts: Mapping[str, Mapping[str, Any]],
    response_prefix: str,
    benchmarks: Mapping[str, Any] | None = None,
) -> str:
    """Return the contents of the saved model's README.md.

    Args:
        record: contents of `ablation.json`.
        evaluation: contents of `evaluation.json`, if available.
        best: selected trial.
        prompts: contents of each prompt set's `fingerprint.json`, by set.
        response_prefix: prefix of every measured response.
        benchmarks: contents of `benchmarks.json`, if available.
    """
    base = shown_name(record["source"]["model"])
    title = f"{base}, edited by directional ablation"
    content = {
        "metadata": card_metadata(record, evaluation, prompts, title).to_yaml(),
        "title": title,
        "base": base,
        "source": record["source"],
        "best": best,
        "norm_preservation": record["norm_preservation"],
        "n_matrices": len(record["edits"]),
        "edits": [(f"`{row.component}`", *astuple(row)[1:]) for row in edit_rows(record)],
        "parameters": record["parameters"],
        "is_quantized": record["export"] == "quantized",
        "is_adapter": record["export"] == "adapter",
        "prompts": _prompt_rows(prompts),
        "versions": record["provenance"]["versions"],
        "benchmarks": benchmarks and _benchmarks(benchmarks),
        "response_prefix": response_prefix,
        "omitted": _omitted(record),
        **_evaluated(record, evaluation),
        **_loading(record),
    }
    return _environment().get_template(TEMPLATE).render(content)


def _environment() -> Environment:
    # Markdown, in whose code blocks HTML entities would be shown: text is escaped by `cell`.
    environment = template_environment(Path(__file__).parent, autoescape=False)
    environment.filters |= {"cell": _cell, "json": json.dumps, "equation": _equation, "nats": nats}
    return environment


def _cell(text: object) -> str:
    """Escape text for a table cell, which markup, vertical bars and line breaks would change."""
    return " ".join(html.escape(str(text), quote=False).replace("|", "\\|").split())


def _equation(p_value: str) -> str:
    return p_value.replace("<", "< ") if p_value.startswith("<") else f"= {p_value}"


def _evaluated(record: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tables of the evaluation and the conditions under which they were measured."""
    found = evaluation or {}
    return {
        "summary": evaluation and summarize_evaluation(evaluation),
        "paired": paired_rows(found),
        "shuffled_labels": "shuffled_labels" in found.get("controls", {}),
        "quantization": record.get("model", {}).get("quantization"),
        "as_is": AS_IS,
        "dequantize": DEQUANTIZE,
        "full_precision": found.get("edited", {}).get("full_precision"),
        "saved_form": found.get("edited", {}).get("quantization"),
        "rounding_error": record.get("rounding_error"),
        "reference": found.get("original", {}).get("quantization"),
        "template_date": record.get("template_date"),
    }


def _omitted(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the saved model lacks, unlike its base model, by kind."""
    found = record.get("omitted", {})
    return [
        (kind, ", ".join([*names[:MOST_NAMED], *_count_of_others(names)]))
        for kind, names in found.items()
    ]


def _count_of_others(names: Sequence[str]) -> list[str]:
    more = len(names) - MOST_NAMED
    return [f"{more} more"] if more > 0 else []


def _benchmarks(benchmarks: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "headings": HEADINGS,
        "rows": [astuple(row) for row in benchmark_rows(benchmarks)],
        "notes": benchmark_notes(benchmarks),
    }


def edit_rows(record: Mapping[str, Any]) -> list[EditRow]:
    """Return the strengths; consecutive layers with the same strengths share a row."""
    rows = []
    for component in dict.fromkeys(edit["component"] for edit in record["edits"]):
        edits = [edit for edit in record["edits"] if edit["component"] == component]
        for first, last, strengths, scope in _runs(edits):
            layers = str(first) if first == last else f"{first} to {last}"
            if component == EMBEDDINGS:
                layers, scope = "before the first", scope.replace("each", "the first")
            shown = ", ".join(f"{strength:.4g}" for strength in strengths)
            rows.append(EditRow(component, layers, shown, scope))
    return rows


def _runs(
    edits: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[int, int, tuple[float, ...], str]]:
    def kind(numbered: tuple[int, Mapping[str, Any]]) -> tuple[int, tuple[float, ...]]:
        position, edit = numbered
        return edit["layer"] - position, tuple(edit["strengths"])

    one_a_layer = {edit["layer"]: edit for edit in edits}
    for _, run in groupby(enumerate(one_a_layer.values()), kind):
        found = [edit for _, edit in run]
        scope = "each layer's own" if found[0]["direction"].startswith("layer") else "one for all"
        yield found[0]["layer"], found[-1]["layer"], tuple(found[0]["strengths"]), scope


def _loading(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the classes that load the model and its tokenizer or processor."""
    loader = record.get("model", {}).get("loader", "AutoModelForCausalLM")
    read_by = "tokenizer" if loader.endswith("CausalLM") else "processor"
    return {"loader": loader, "reader": f"Auto{read_by.title()}", "read_by": read_by}


def shown_name(model: str) -> str:
    """Return a hub id unchanged, or only the name of a local folder, to keep its path private."""
    return Path(model).name if is_local(model) else model


def _prompt_rows(prompts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the sources of prompts; prompts may be harmful and are not shown."""
    return [
        (
            f"`{name}`",
            ", ".join(_shown(facts, {"count", "sha256"})),
            str(facts.get("count", "")),
            f"`{str(facts.get('sha256', ''))[:16]}`",
        )
        for name, facts in prompts.items()
    ]


def _shown(facts: Mapping[str, Any], hidden: Collection[str] = ()) -> Iterator[str]:
    """Yield `name: value` for every value that is set, at any depth."""
    for name, value in facts.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                yield from _shown(part)
            elif name == "dataset" and is_local(str(part)):
                yield f"{name}: {Path(str(part)).name}"  # local paths stay private
            elif name not in hidden and part not in (None, "", False):
                yield f"{name}: {part}"

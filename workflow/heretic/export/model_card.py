"""Model card: evaluation, edit details and reproduction."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from heretic.benchmarks.scores import HEADINGS, benchmark_notes, benchmark_rows
from heretic.evaluation.summary import PairedRow, Summary, paired_rows, summarise
from heretic.model.checkpoint import is_local
from heretic.model.quantization import AS_IS
from heretic.model.stream_writers.components import EMBEDDINGS

TAGS = ("abliterated", "directional-ablation", "heretic-workflow")
MERGED_USE = """\
from transformers import {loader}, {reader}

{read_by} = {reader}.from_pretrained("{here}")
model = {loader}.from_pretrained("{here}")
"""
ADAPTER_USE = """\
from peft import PeftModel
from transformers import {loader}, {reader}

{read_by} = {reader}.from_pretrained("{base}"{revision})
base = {loader}.from_pretrained("{base}"{revision})
model = PeftModel.from_pretrained(base, "{here}")
"""


def model_card(
    record: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    best: Mapping[str, Any],
    prompts: Mapping[str, Mapping[str, Any]],
    response_prefix: str,
    benchmarks: Mapping[str, Any] | None = None,
) -> str:
    """Return the contents of the saved model's README.md.

    Args:
        record: contents of `ablation.json`.
        evaluation: contents of `evaluation.json`.
        best: contents of `best.json`.
        prompts: contents of each prompt set's `fingerprint.json`, by set.
        response_prefix: prefix of every measured response.
        benchmarks: contents of `benchmarks.json`, if available.
    """
    source, name = record["source"], shown_name(record["source"]["model"])
    return f"""---
{yaml.safe_dump(_front_matter(record), sort_keys=False, allow_unicode=True).strip()}
---

# {name}, edited by directional ablation

**The refusal behavior of this model was changed.** A direction in the residual stream that
mediates it was projected out of the weights of {name} (revision
{source["revision"] or "not pinned"}, weights sha256 `{source["sha256"]}`). The model may answer
requests that the original declines. You are responsible for how you use it.

## Evaluation

Results on held-out prompts:

{_table(summarise(evaluation))}

Rates have 95% Wilson intervals; KL divergences (nats) from the original have 95% bootstrap
intervals. The controls are the same edit at strength zero{_elsewhere(evaluation)}.
{_paired(paired_rows(evaluation))}{_quantised(record)}{_prefix(response_prefix)}{_dated(record)}{_benchmarks(benchmarks)}
## Edit details

Trial {best["trial"]} of {best["n_trials"]}, {best["selection"]}. {len(record["edits"])} matrices
were edited, norm preservation: {record["norm_preservation"]}. {_compared(record)}

{_edits(record)}

```json
{json.dumps(record["parameters"], indent=2)}
```

## Usage

```python
{_use(record)}```

## Prompts

{_prompts(prompts)}

## Reproduction

`ablation.json` in this repository records the complete edit: the directions, the strength for each
matrix, the settings, and the hashes of every input and of every file here. With heretic-workflow
installed,

```sh
heretic reproduce ablation.json
```

rebuilds the edited model from the base model and compares the files byte for byte. Created with
{", ".join(f"{k} {v}" for k, v in record["provenance"]["versions"].items())}.
"""


def _elsewhere(evaluation: Mapping[str, Any]) -> str:
    if "shuffled_labels" not in evaluation["controls"]:
        return " and along random directions"
    return ", along random directions, and along shuffled-label directions"


def _paired(rows: Sequence[PairedRow]) -> str:
    """Return McNemar's tests as a sentence."""
    if not rows:
        return ""
    told = "; ".join(
        f"{row.label.lower()} {row.only_original} and {row.only_edited} (p {_equal(row.p_value)})"
        for row in rows
    )
    return (
        "\nPaired comparison: prompts for which a measure holds only for the original and only\n"
        f"for the edited model, with the p-value of McNemar's exact test: {told}.\n"
    )


def _equal(p_value: str) -> str:
    return p_value.replace("<", "< ") if p_value.startswith("<") else f"= {p_value}"


def _benchmarks(benchmarks: Mapping[str, Any] | None) -> str:
    if benchmarks is None:
        return ""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(astuple, benchmark_rows(benchmarks))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"\n## Benchmarks\n\n{table}\n\n{benchmark_notes(benchmarks)}\n"


def _quantised(record: Mapping[str, Any]) -> str:
    """Describe the quantization of the model that was searched and measured, if any."""
    kind = record.get("model", {}).get("quantization")
    if kind is None:
        return ""
    if kind == AS_IS:
        return "The search used a quantized checkpoint; the table was measured in full precision.\n"
    return f"The search and the table used models quantized to `{kind}`; these weights are not.\n"


def _front_matter(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the base model's card, updated for the edit."""
    source, adapter = record["source"], record["export"] == "adapter"
    taken = dict(source.get("card", {}))
    tags = taken.pop("tags", [])
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    header |= taken
    if adapter:
        header["library_name"] = "peft"
    if _is_on_the_hub(source["model"]):
        header["base_model"] = source["model"]
        header["base_model_relation"] = "adapter" if adapter else "finetune"
    known = [tags] if isinstance(tags, str) else [str(tag) for tag in tags]
    header["tags"] = list(dict.fromkeys([*known, *TAGS]))
    return header


def _is_on_the_hub(model: str) -> bool:
    return "/" in model and not is_local(model)


def _edits(record: Mapping[str, Any]) -> str:
    """Return the table of strengths; consecutive layers with the same strength share a row."""
    lines = ["| Component | Layers | Strength | Direction |", "|---|---|---|---|"]
    for component in dict.fromkeys(edit["component"] for edit in record["edits"]):
        edits = [edit for edit in record["edits"] if edit["component"] == component]
        for first, last, strengths, scope in _runs(edits):
            layers = str(first) if first == last else f"{first} to {last}"
            if component == EMBEDDINGS:
                layers, scope = "before the first", scope.replace("each", "the first")
            told = ", ".join(f"{strength:.4g}" for strength in strengths)
            lines.append(f"| `{component}` | {layers} | {told} | {scope} |")
    return "\n".join(lines)


def _runs(
    edits: list[Mapping[str, Any]],
) -> Iterator[tuple[int, int, tuple[float, ...], str]]:
    def kind(numbered: tuple[int, Mapping[str, Any]]) -> tuple[int, tuple[float, ...]]:
        position, edit = numbered
        return edit["layer"] - position, tuple(edit["strengths"])

    one_a_layer = {edit["layer"]: edit for edit in edits}
    for _, run in groupby(enumerate(one_a_layer.values()), kind):
        found = [edit for _, edit in run]
        scope = "each layer's own" if found[0]["direction"].startswith("layer") else "one for all"
        yield found[0]["layer"], found[-1]["layer"], tuple(found[0]["strengths"]), scope


def _use(record: Mapping[str, Any]) -> str:
    text = ADAPTER_USE if record["export"] == "adapter" else MERGED_USE
    source = record["source"]
    revision = f', revision="{source["revision"]}"' if source["revision"] else ""
    loader = record.get("model", {}).get("loader", "AutoModelForCausalLM")
    read_by = "tokenizer" if loader.endswith("CausalLM") else "processor"
    return text.format(
        loader=loader,
        reader=f"Auto{read_by.title()}",
        read_by=read_by,
        base=shown_name(source["model"]),
        revision=revision,
        here="path/or/name/of/this/repository",
    )


def shown_name(model: str) -> str:
    """Return a hub id unchanged, or only the name of a local folder, to keep its path private."""
    return Path(model).name if is_local(model) else model


def _prefix(response_prefix: str) -> str:
    if not response_prefix:
        return ""
    return (
        f"\nEvery response was forced to begin with `{json.dumps(response_prefix)}`: append it to "
        "the generation prompt to obtain these rates; the model was not measured without it.\n"
    )


def _dated(record: Mapping[str, Any]) -> str:
    day = record.get("template_date")
    if day is None:
        return ""
    return f"\nThe chat template prints today's date; all prompts were measured with {day}.\n"


def _compared(record: Mapping[str, Any]) -> str:
    if record["export"] == "adapter":
        return "The adapter contains nothing else; the base model is unchanged."
    return "All other tensors were verified to be identical to those of the loaded base model."


def _prompts(prompts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of prompt sources; prompts may be harmful and are not shown."""
    lines = ["| Set | Source | Prompts | SHA-256 |", "|---|---|---|---|"]
    for name, facts in prompts.items():
        sha256 = str(facts.get("sha256", ""))
        lines.append(
            f"| `{name}` | {_origin(facts)} | {facts.get('count', '')} | `{sha256[:16]}` |"
        )
    return "\n".join(lines)


def _origin(facts: Mapping[str, Any]) -> str:
    told = ", ".join(_told(facts, {"count", "sha256"}))
    return " ".join(told.replace("|", "\\|").split())


def _told(facts: Mapping[str, Any], untold: Collection[str] = ()) -> Iterator[str]:
    """Yield `name: value` for every value that is set, at any depth."""
    for name, value in facts.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                yield from _told(part)
            elif name == "dataset" and is_local(str(part)):
                yield f"{name}: {Path(str(part)).name}"  # local paths stay private
            elif name not in untold and part not in (None, "", False):
                yield f"{name}: {part}"


def _table(summary: Summary) -> str:
    lines = ["| | " + " | ".join(summary.headings) + " |"]
    lines.append("|---" * (len(summary.headings) + 1) + "|")
    for row in summary.rows:
        cells = [
            " ".join(part for part in (cell.value, cell.count and f"({cell.count})") if part)
            + (f"<br>{cell.interval}" if cell.interval else "")
            for cell in row.cells
        ]
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

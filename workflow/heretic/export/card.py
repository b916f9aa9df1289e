"""The model card: what was edited, what it did, and how to do it again."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from heretic.evaluation.summary import Summary, summarise
from heretic.model.source import is_local

TAGS = ["abliterated", "directional-ablation", "heretic-workflow"]


def model_card(
    record: Mapping[str, Any], evaluation: Mapping[str, Any], best: Mapping[str, Any]
) -> str:
    """README.md of the saved model.

    Args:
        record: contents of `ablation.json`.
        evaluation: contents of `evaluation.json`.
        best: contents of `best.json`.
    """
    source = record["source"]
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": TAGS,
    }
    if "/" in source["model"] and not is_local(source["model"]):
        header["base_model"] = source["model"]
    versions = ", ".join(f"{k} {v}" for k, v in record["provenance"]["versions"].items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {source["model"]}, edited by directional ablation

**The refusal behaviour of this model was changed.** A direction in the residual stream that
mediates it was projected out of the weights of {source["model"]} (revision
{source["revision"] or "not pinned"}, weights sha256 `{source["sha256"]}`). The model may answer
requests that the original declines. Whoever runs it is responsible for what it is used for.

## Before and after, on held-out prompts

{_table(summarise(evaluation))}

Rates with 95% Wilson intervals, KL divergence (nats) from the original with 95% bootstrap
intervals. The controls are the same edit at strength zero and along random directions.

## The edit

Trial {best["trial"]} of {best["n_trials"]}, {best["selection"]}. {len(record["edited"])} matrices
were edited, norm preservation: {record["norm_preservation"]}.

```json
{json.dumps(record["parameters"], indent=2)}
```

`ablation.json` beside this file holds the settings, the hashes of every input and the versions
({versions}).
"""


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

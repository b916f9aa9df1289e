"""Shared parts of the pages on a held-out evaluation: tables, responses and rendering."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heretic.evaluation.summary import category_tables, paired_rows, summarize_evaluation
from heretic.templates import template_environment

SETS = {"bad_holdout_prompts": "bad prompts", "good_holdout_prompts": "good prompts"}
SAMPLE_TITLES = {
    "bad_holdout_prompts": "Bad prompts: requests that the original refuses",
    "good_holdout_prompts": "Good prompts: requests that the original answers",
}


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return a page rendered from one of the templates in this folder.

    All text is escaped, and characters that would reorder or end it are made visible.
    """
    environment = template_environment(Path(__file__).parent, autoescape=True)
    return environment.get_template(template).render(content)


def evaluation_content(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the templates `outcome.html` and `samples.html`."""
    tables = category_tables(evaluation)
    return {
        "summary": summarize_evaluation(evaluation),
        "controls": tuple(evaluation.get("controls", {})),
        "noop_identical": evaluation.get("noop_identical"),
        "paired": paired_rows(evaluation),
        "categories": [(SETS.get(name, name), table) for name, table in tables.items()],
        "sample_groups": _sample_groups(evaluation["samples"]),
    }


def _sample_groups(
    samples: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Group samples under a heading per prompt set, bad prompts first."""
    names = list(dict.fromkeys([*SAMPLE_TITLES, *(sample["set"] for sample in samples)]))
    groups = [
        (SAMPLE_TITLES.get(name, name), [sample for sample in samples if sample["set"] == name])
        for name in names
    ]
    return [(title, group) for title, group in groups if group]

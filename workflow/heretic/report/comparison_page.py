"""The page on a comparison of any two models: a self-contained HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heretic.artifacts import write_text
from heretic.report import wording
from heretic.report.parts import evaluation_content, render
from heretic.report.run_reader import flat


def write_comparison(evaluation: Mapping[str, Any], target: Path) -> None:
    """Write the page.

    Args:
        evaluation: Contents of the comparison's `evaluation.json`.
        target: The HTML file.
    """
    models, facts = evaluation["models"], evaluation["provenance"]
    groups = [
        ("Original", flat(models["original"])),
        ("Edited", flat(models["edited"])),
        *((f"Prompts: {name}", flat(found)) for name, found in evaluation["prompts"].items()),
        ("Settings", flat(facts["settings"])),
        ("Versions", flat(facts["versions"])),
    ]
    content = {
        **evaluation_content(evaluation),
        "names": {key: models[key]["model"] for key in ("original", "edited")},
        "headline": wording.headline(evaluation),
        "warnings": wording.warnings(evaluation),
        "aids": wording.comparison_aids(evaluation, facts["settings"]),
        "fingerprints": [(title, lines) for title, lines in groups if lines],
    }
    write_text(target, render("comparison.html", content))

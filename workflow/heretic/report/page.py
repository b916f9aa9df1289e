"""Rendering of the report: a self-contained HTML file and static copies of its figures.

The templates in this folder define text and layout; this module collects their content. The
template engine escapes all text of prompts and responses.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from heretic.artifacts import write_text
from heretic.benchmarks.scores import HEADINGS, benchmark_notes, benchmark_rows
from heretic.console import log
from heretic.evaluation.number_format import short
from heretic.report import wording
from heretic.report.chart import Chart
from heretic.report.diagnostic_figures import agreement, angles, rotation
from heretic.report.embedding import Method
from heretic.report.layer_figures import clouds_by_layer, layer_profile, separation
from heretic.report.parts import evaluation_content, render
from heretic.report.picks import picks_table
from heretic.report.projection import project
from heretic.report.projection_figures import all_layers, one_layer
from heretic.report.run_reader import Run, flat, read_run
from heretic.report.search_figures import history, pareto, seconds_by_stage
from heretic.report.states import open_states
from heretic.report.static import save_static
from heretic.saved_picks import about_outdated_picks
from heretic.settings.schema import Settings

LONG_FIELDS = (
    "strengths",
    "parameters",
    "edits",
    "directions",
    "files",
    "provenance",
)  # of ablation.json; shown elsewhere


def draw_all(run: Run, projection: Method = "pca") -> tuple[Chart, ...]:
    """Return all figures of the report, in the order of the page.

    Raises:
        HereticError: Residuals or directions are missing, damaged or of different widths, or
            the package for the projection is missing.
    """
    states = open_states(run.folder, len(run.geometry["layer"]))
    planes = list(project(states, projection))
    charts = (
        pareto(run),
        history(run),
        seconds_by_stage(run),
        layer_profile(run),
        separation(run),
        one_layer(planes, run.geometry),
        all_layers(planes, run.geometry),
        agreement(run),
        angles(run),
        rotation(states.directions),
        clouds_by_layer(run),
    )
    return tuple(chart for chart in charts if chart is not None)


@dataclass(frozen=True)
class ShownChart:
    """A chart for the page: plotly's data as JSON, and a static picture as a fallback."""

    name: str
    title: str
    caption: str
    alt: str
    height: int
    wide: bool
    slider: bool
    data: Markup
    picture: Markup


def write_report(
    run_folder: Path,
    *,
    run: str,
    settings: Mapping[str, object],
    target: Path,
    plots: Path,
    picks: Sequence[Path] = (),
) -> None:
    """Write the page to `target` and each figure to `plots/<name>.svg` and `.png`.

    Args:
        run_folder: Folder with the run's artifacts.
        run: Name of the run, for the title.
        settings: All settings of the run as plain JSON values.
        target: The HTML file.
        plots: Folder of the static figures.
        picks: Folders of the further picks.

    Raises:
        HereticError: An artifact is missing or damaged; the message names it.
    """
    found = read_run(run_folder, picks, with_benchmarks=bool(settings.get("benchmarks")))
    table = picks_table(found)
    if table is not None and table.alike:
        log.info("%s", table.alike)
    charts = draw_all(found, _projection(settings))
    shown = [_show(chart, *save_static(chart.figure, chart.name, plots)) for chart in charts]
    content = {**_content(found, run, settings), "picks": table, "charts": shown}
    content["outdated_picks"] = about_outdated_picks(run_folder)
    write_text(target, render("template.html", content))


def _projection(settings: Mapping[str, object]) -> Method:
    return "pacmap" if settings.get("projection") == "pacmap" else "pca"


def _show(chart: Chart, svg: Path, png: Path) -> ShownChart:
    """Replace the figure's title, which a narrow screen would cut off, by the page's heading."""
    figure = go.Figure(chart.figure).update_layout(title=None)
    return ShownChart(
        name=chart.name,
        title=chart.title,
        caption=chart.caption,
        alt=chart.alt,
        height=int(figure.layout.height),
        wide=chart.wide,
        slider=bool(figure.layout.sliders),
        data=_inside_script(figure.to_json()),
        picture=Markup(base64.b64encode(svg.read_bytes()).decode()),
    )


def _inside_script(text: str) -> Markup:
    """Escape JSON so that it cannot end its script element."""
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # safe: no HTML special characters remain


def _content(found: Run, run: str, settings: Mapping[str, object]) -> dict[str, Any]:
    evaluation = found.evaluation
    return {
        "run": run,
        "model": _model(settings),
        "headline": wording.headline(evaluation),
        "warnings": wording.warnings(evaluation, found.doubtful(), found.best.unimproved()),
        **evaluation_content(evaluation),
        "benchmarks": found.benchmarks and _benchmarks(found.benchmarks),
        "best": found.best,
        "chosen": found.chosen(),
        "parameters": {key: short(value) for key, value in flat(found.best.parameters).items()},
        "n_complete": sum(trial.feasible for trial in found.trials),
        "n_infeasible": sum(not trial.feasible for trial in found.trials),
        "aids": wording.reading_aids(evaluation, settings),
        "settings": _settings_rows(settings),
        "changed": {k: wording.plain(v) for k, v in wording.changed_settings(settings).items()},
        "command": wording.command(settings),
        "versions": _versions(found),
        "fingerprints": _fingerprints(found),
        "plotly": Markup(get_plotlyjs()),
    }


def _benchmarks(benchmarks: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "headings": HEADINGS,
        "rows": [astuple(row) for row in benchmark_rows(benchmarks)],
        "notes": benchmark_notes(benchmarks),
    }


def _model(settings: Mapping[str, object]) -> str:
    model = settings.get("model", "unknown model")
    return ", ".join(map(str, model)) if isinstance(model, list) else str(model)


def _settings_rows(settings: Mapping[str, object]) -> list[tuple[str, str, bool, str]]:
    """Return name, value, whether it differs from the default, and meaning of every setting."""
    changed, fields = wording.changed_settings(settings), Settings.model_fields
    return [
        (
            name,
            wording.plain(value),
            name in changed,
            (fields[name].description or "") if name in fields else "",
        )
        for name, value in settings.items()
    ]


def _versions(found: Run) -> dict[str, str]:
    """Return the versions used by search and evaluation; both are shown if they differ."""
    merged: dict[str, list[str]] = {}
    for facts in (found.best.provenance, found.evaluation["provenance"]):
        for name, version in facts.get("versions", {}).items():
            merged.setdefault(name, [])
            if version not in merged[name]:
                merged[name].append(str(version))
    return {name: " (search), ".join(versions) for name, versions in merged.items()}


def _fingerprints(found: Run) -> list[tuple[str, dict[str, str]]]:
    """Return names and values in groups: files, prompt sets, the edit, inputs of both phases."""
    groups: list[tuple[str, dict[str, str]]] = [("Files (SHA-256)", found.hashes)]
    groups += [(f"Prompts: {name}", flat(value)) for name, value in found.prompt_sets.items()]
    edit = {k: v for k, v in found.ablation.items() if k not in LONG_FIELDS}
    groups.append(("Edit (model/ablation.json)", flat(edit)))
    inputs = found.evaluation["provenance"].get("inputs", {})
    groups.append(("Inputs of the evaluation (SHA-256)", flat(inputs)))
    return [(title, lines) for title, lines in groups if lines]

"""Benchmarks of what was saved, merged or as an adapter, beside the original's."""

from pathlib import Path
from typing import Any

import pytest
from custom_tasks import write_choices
from edit_fixtures import export, load, plan
from tiny_models import save_tiny_model

from heretic.benchmarks.lm_eval import answers_file, load_benchmarks, score_benchmarks
from heretic.benchmarks.scores import BenchmarkProtocol, compare
from heretic.export.adapter import load_edited
from heretic.settings.schema import Settings


def test_both_forms_score_alike_and_not_like_the_original(tmp_path: Path) -> None:
    write_choices(tmp_path / "tasks", "words")
    protocol = BenchmarkProtocol(("words",), folder=str(tmp_path / "tasks"))
    benchmarks = load_benchmarks(protocol)
    source = save_tiny_model(tmp_path / "base")
    options = Settings(device="cpu", model=str(source), response_prefix="").model_dump()
    saved = {
        form: export(
            plan(source, export=form), source, tmp_path / form, low_memory=form == "merged"
        )
        for form in ("merged", "adapter")
    }
    models = {"original": load(source)} | {
        form: load_edited(folder, options, str(source)) for form, folder in saved.items()
    }
    found: dict[str, Any] = {
        name: score_benchmarks(
            model, benchmarks, protocol, answers_file(tmp_path / "answers", name, model)
        )
        for name, model in models.items()
    }
    tables = [compare(found["original"], found[form]) for form in saved]
    assert tables[0] == tables[1]
    score = tables[0]["tasks"]["words"]["metrics"]["acc"]
    before = found["original"]["tasks"]["words"]["metrics"]["acc"]
    assert score["original"] == {key: before[key] for key in ("value", "stderr")}
    assert score["difference"]["stderr"] > 0
    assert score["edited"]["value"] == pytest.approx(
        score["original"]["value"] + score["difference"]["value"]
    )

"""A run whose chat template prints the date goes on with its prompts on another day, elsewhere."""

import csv
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Workspace

from heretic.artifacts import read_json, read_tensors, sha256_of
from heretic.settings.prompt_sources import PROMPT_SETS
from heretic.settings.resolve import config_argument

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

HERE = Path(__file__).parent
SMALL = ("n_trials=3", "n_startup_trials=3", "max_response_length=16", "bootstrap_samples=100")
# With the time, and names of the day and the month, in which languages and zones differ.
PRINTED = "{{ '<|system|>now ' + strftime_now('%A %d %B %Y %H:%M:%S %x') + '<|end|>' }}"
DEMO = ", column: prompt, answer_column: answers"
SETS = [
    f'{name}={{dataset: demo, split: "{name}[:50]"{DEMO}}}'
    for name in PROMPT_SETS
    if name.startswith(("good", "bad"))
]
FIRST, LATER = "2026-03-31", "2027-10-02"
STATES = ("residuals/good_prompts.safetensors", "residuals/bad_prompts.safetensors",
          "residuals/bad_evaluation_prompts.safetensors", "directions.safetensors")  # fmt: skip


@dataclass(frozen=True)
class Dated:
    """A workspace with a model whose template prints the date."""

    workspace: Workspace
    model: Path
    locales: Path

    def require(self, run: str, target: str, day: str, *changes: str, **variables: str) -> str:
        """Make one artifact of a run, as on that day."""
        path = os.pathsep.join([str(HERE / "days"), str(self.workspace.folder / "workflow")])
        return self.workspace.require(
            f"results/{run}/{target}", "--config", f"model={self.model}", f"run_name={run}", *SETS,
            *SMALL, *changes, DAY=day, PYTHONPATH=path, **variables,
        )  # fmt: skip

    def elsewhere(self) -> dict[str, str]:
        """Another language, character set and time zone."""
        return {
            "LOCPATH": str(self.locales), "LC_ALL": "de_DE.ISO-8859-1", "TZ": "Pacific/Kiritimati"
        }  # fmt: skip

    def hashes(self, run: str, names: tuple[str, ...]) -> dict[str, str]:
        return {name: sha256_of(self.workspace.results / run / name) for name in names}

    def studies(self, run: str) -> list[str]:
        database = self.workspace.results / run / "study.db"
        return optuna.get_all_study_names(f"sqlite:///{database}")


@pytest.fixture(scope="module")
def dated(demo_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Dated:
    workspace = demo_workspace
    folder = tmp_path_factory.mktemp("dated")
    model = Path(shutil.copytree(workspace.results / "demo-model", folder / "model"))
    template = model / "chat_template.jinja"
    template.write_text(PRINTED + template.read_text(encoding="utf-8"), encoding="utf-8")
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")],
        capture_output=True,
    )
    if made.returncode != 0:
        pytest.skip("no sources of locales")
    return Dated(workspace, model, folder)


def trials(folder: Path) -> list[dict[str, str]]:
    """Parameters and scores of every trial."""
    rows = csv.DictReader((folder / "trials.csv").open(encoding="utf-8"))
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]


def measured(dated: Dated, run: str) -> dict[str, Any]:
    """Everything that a run finds but times."""
    folder = dated.workspace.results / run
    evaluation = read_json(folder / "evaluation.json")
    return {
        "states": dated.hashes(run, STATES),
        "trials": trials(folder),
        "study": dated.studies(run),
        "evaluation": {k: v for k, v in evaluation.items() if k != "provenance"},
        "answers": sha256_of(folder / "answers.jsonl"),
        "weights": sha256_of(folder / "model" / "model.safetensors"),
    }


@pytest.fixture(scope="module")
def finished(dated: Dated) -> dict[str, Any]:
    """A run of the first day, up to the saved model and its held-out table."""
    dated.require("dated", "evaluation.json", FIRST)
    return measured(dated, "dated")


def test_a_run_that_goes_on_another_day_keeps_its_prompts(
    dated: Dated, finished: dict[str, Any]
) -> None:
    run = dated.workspace.results / "dated"
    chat = read_json(run / "chat.json")
    assert chat["template_date"] == FIRST
    assert read_json(run / "model" / "ablation.json")["template_date"] == FIRST
    # Its date is settled, although the rule that settles it runs again for another reason.
    prefix = chat["response_prefix"]
    changed = config_argument("response_prefix", prefix)
    printed = dated.require("dated", "evaluation.json", LATER, changed, **dated.elsewhere())
    assert "Detecting the response prefix" in printed
    now = read_json(run / "chat.json")
    assert (now["template_date"], now["response_prefix"]) == (FIRST, prefix)
    assert measured(dated, "dated") == finished


def test_another_language_and_time_zone_find_the_same(
    dated: Dated, finished: dict[str, Any]
) -> None:
    """From the first phase, with the date of the other run."""
    dated.require(
        "elsewhere", "evaluation.json", LATER, f"template_date={FIRST}", **dated.elsewhere()
    )
    assert measured(dated, "elsewhere") == finished
    assert not (dated.workspace.results / "elsewhere" / "template_date.json").exists()


def test_another_date_is_another_study_and_back_again(
    dated: Dated, finished: dict[str, Any]
) -> None:
    run = dated.workspace.results / "dated"
    before = read_tensors(run / "residuals" / "bad_prompts.safetensors")["residuals"]
    dated.require("dated", "study.json", LATER, "template_date=2001-02-03")
    assert read_json(run / "chat.json")["template_date"] == "2001-02-03"
    other = read_tensors(run / "residuals" / "bad_prompts.safetensors")["residuals"]
    assert not before.equal(other)
    assert len(dated.studies("dated")) == 2
    dated.require("dated", "study.json", LATER)
    assert read_json(run / "chat.json")["template_date"] == FIRST
    assert dated.hashes("dated", STATES) == finished["states"]
    assert trials(run) == finished["trials"]
    assert {*dated.studies("dated")} > {*finished["study"]}

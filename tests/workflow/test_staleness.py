"""What a change makes stale, as Snakemake itself plans it: for every setting and every module."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace
from custom_tasks import QUESTIONS, write_choices
from services.hub_server import HubServer

from generate_docs import rules_of
from heretic.artifacts import read_json, sha256_of
from heretic.settings.input_fields import MODEL_RULES
from heretic.settings.prompt_sources import PROMPT_SETS
from heretic.settings.schema import Settings
from heretic.source_tracking import module_files

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

Jobs = dict[str, dict[str, Any]]
HERE = Path(__file__).parent
# A run that uses everything: both optional prompt sets, an upload and a benchmark.
BASE: dict[str, Any] = {
    "device_map": "sequential",
    "upload_to": "tester/stale",
    "unhelpfulness_prompts": "true",
    "sacred_prompts": "true",
    "n_trials": 3,
    "n_startup_trials": 3,
    "direction_method": "contrastive_pca",
    "n_directions": 2,
    "max_response_length": 16,
    "bootstrap_samples": 100,
    "benchmarks": "words",
    "benchmark_tasks": "own_tasks",
}
# Another valid value of every setting but the prompt sets.
CHANGED: dict[str, Any] = {
    "model_revision": "v2",
    "seed": 5,
    "demo_family": "qwen3",
    "demo_refusal_class": "tool_of_fabric",
    "demo_steps": 1200,
    "dtype": "bfloat16",
    "quantization": "bnb_8bit",
    "device": "cpu",
    "threads": 1,
    "trust_remote_code": "true",
    "max_batch_size": 7,
    "compile": "true",
    "device_map": "auto",
    "max_memory": "cpu=9GiB",
    "attn_implementation": "eager",
    "chat_template": "{{ messages }}",
    "cache_weights": "false",
    "cache_device": "host",
    "activation_cache_gb": 1.5,
    "response_prefix": "Well",
    "max_prompt_length": 300,
    "template_date": "2020-02-02",
    "positions": "all",
    "winsorize_quantile": 0.99,
    "unhelpfulness_mean_only": "true",
    "direction_method": "pca",
    "ensemble_weights": "probe=1,pca=0.5",
    "n_directions": 1,
    "direction_weights": "1,0.5",
    "probe_c": 0.1,
    "n_sacred_directions": 2,
    "orthogonalization": "sequential",
    "cpca_alpha": 0.5,
    "cpca_center": "class",
    "orthogonalize_to_good": "true",
    "min_remaining_norm": 0.01,
    "n_trials": 4,
    "n_startup_trials": 2,
    "early_stopping_patience": 9,
    "sampler": "random",
    "sobol_startup": "false",
    "warm_start": "auto",
    "warm_start_from": "earlier.json",
    "trial_batch_size": 2,
    "norm_preservation": "column",
    "edit_mode": "hooks",
    "search_space": "kernel",
    "direction_scope": "per_layer",
    "ablate_embeddings": "true",
    "discriminative_layers": "true",
    "max_weight": 1.5,
    "min_weight": 0.5,
    "layer_range": "0.2,1",
    "direction_layer_range": "0.4,0.9",
    "max_kl": 0.9,
    "max_refusal_log_odds": 50,
    "objectives": "unanswered,kl_first_token",
    "scorers": "words",
    "refusal_markers": "core,soft",
    "max_response_length": 17,
    "select": "knee",
    "select_max_kl": 0.2,
    "n_finalists": 1,
    "kl_tokens": 8,
    "bootstrap_samples": 101,
    "max_shard_size": "1GB",
    "export": "adapter",
    "export_from": "results/demo-model",
    "low_memory_export": "true",
    "upload_private": "false",
    "projection": "pacmap",
    "benchmarks": "letters,words",
    "benchmark_limit": 2,
    "benchmark_num_fewshot": 1,
    "benchmark_apply_chat_template": "false",
    "benchmark_tasks": "other_tasks",
}
# Settings that name files, which are inputs of the rules that read them.
# Settings that the changed value does not support: adapters of the demo model are not uploaded.
NOT_WITH = {"export": ("upload_to",)}
# Scorers may read the plain texts, which the run has.
NAME_FILES = ("export_from", "benchmark_tasks", "scorers", "warm_start", "warm_start_from")
CHANGED |= {
    name: {
        "dataset": "demo",
        "split": f"{name}[:50]",
        "column": "prompt",
        "answer_column": "answers",
        "category_column": "category",
    }
    for name in PROMPT_SETS
}
# A setting of each rule, tried without metadata too.
WITHOUT_METADATA = (
    *("seed", "demo_refusal_class", "dtype", "good_holdout_prompts", "chat_template", "positions"),
    *("unhelpfulness_mean_only", "n_directions", "n_trials", "max_weight", "n_finalists", "select"),
    *("max_shard_size", "kl_tokens", "benchmark_limit", "projection", "upload_private"),
)
# Options of the demo model: another value is another model, in a folder of its own.
OF_DEMO = {"seed", "demo_family", "demo_refusal_class", "demo_steps"}
# Settings that name what is made: another value is another run, or another copy of it.
NAMES = {"model", "run_name", "upload_to"}


class Planner:
    """Snakemake's API in a process of its own, which uses the workspace's copy of the library."""

    def __init__(self, workspace: Workspace, variables: Mapping[str, str]) -> None:
        self.workspace = workspace
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "plan_jobs.py")],
            cwd=workspace.folder,
            env=workspace.environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def plan(self, *without: str, environ: Mapping[str, str] | None = None, **changes: Any) -> Jobs:
        """Every job under `BASE`, less the settings `without`, with changes to it."""
        config = {key: value for key, value in BASE.items() if key not in without}
        question = {"config": {**config, **changes}, "environ": environ or {}}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"snakemake cannot plan {question}"
        jobs: Jobs = json.loads(answer)
        return jobs

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def planner(
    demo_run: tuple[Workspace, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planner]:
    """Asks about a finished run in a folder of its own."""
    folder = tmp_path_factory.mktemp("stale") / "workspace"
    workspace = Workspace(Path(shutil.copytree(demo_run[0].folder, folder)))
    pairs = [f"{key}={value}" for key, value in BASE.items()]
    for tasks in ("own_tasks", "other_tasks"):
        for name in ("words", "letters"):
            write_choices(workspace.folder / tasks, name)
    with HubServer() as hub:
        variables = hub.environment(tmp_path_factory.mktemp("home"))
        workspace.require("--config", *pairs, **variables)
        shutil.copy(workspace.results / "demo" / "study.json", workspace.folder / "earlier.json")
        found = Planner(workspace, variables)
        yield found
        found.close()


def planned(jobs: Jobs) -> set[str]:
    return {name for name, job in jobs.items() if job["planned"]}


def rules(jobs: Jobs, fact: str) -> set[str]:
    return {job["rule"] for job in jobs.values() if job[fact]}


def and_all_after(jobs: Jobs, first: set[str]) -> set[str]:
    """Jobs together with those that use what they make."""
    found = set(first)
    while True:
        more = {name for name, job in jobs.items() if found & set(job["after"])} - found
        if not more:
            return found
        found |= more


def test_nothing_is_stale_in_a_finished_run(planner: Planner) -> None:
    jobs = planner.plan()
    assert {job["rule"] for job in jobs.values()} >= {"train_demo_model", "optimize", "upload"}
    assert planned(jobs) == set()


def test_every_setting_is_tried() -> None:
    assert CHANGED.keys() | NAMES == Settings.model_fields.keys()
    assert not CHANGED.keys() & NAMES


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_makes_exactly_the_rules_of_its_row_stale(planner: Planner, name: str) -> None:
    row = set(rules_of(Settings.model_fields[name]))
    jobs = planner.plan(*NOT_WITH.get(name, ()), **{name: CHANGED[name]})
    first = {n for n, job in jobs.items() if job["phase"]}
    if name in OF_DEMO:
        reading = set(rules_of(Settings.model_fields["model"]))
        assert rules(jobs, "phase") == row | reading | {"train_demo_model"}
        assert rules(jobs, "inputs") == set(MODEL_RULES)
    else:
        assert rules(jobs, "phase") == row
        # It names files, which count as well where they are read.
        unread = {"score_finalists"} if name == "export_from" else set()
        assert rules(jobs, "inputs") == (row - unread if name in NAME_FILES else set())
    assert planned(jobs) == and_all_after(jobs, first)


def test_settings_count_without_what_snakemake_remembers(planner: Planner) -> None:
    """As after jobs that finished on a cluster while no main process watched them."""
    remembered = planner.workspace.folder / ".snakemake" / "metadata"
    aside = remembered.rename(remembered.with_name("metadata-aside"))
    try:
        assert planned(planner.plan()) == set()
        for name in WITHOUT_METADATA:
            jobs = planner.plan(**{name: CHANGED[name]})
            first = {n for n, job in jobs.items() if job["phase"]}
            assert first, name
            assert planned(jobs) == and_all_after(jobs, first), name
    finally:
        shutil.rmtree(remembered, ignore_errors=True)
        aside.rename(remembered)


def test_a_plan_changes_nothing(planner: Planner) -> None:
    """A dry run of other settings leaves no trace in what a later run compares with."""
    before = contents(planner.workspace.results)
    assert planned(planner.plan(max_weight=1.5, seed=5, bootstrap_samples=101))
    assert contents(planner.workspace.results) == before
    assert planned(planner.plan()) == set()


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_smaller_number_of_trials_does_not_search(planner: Planner) -> None:
    jobs = planner.plan(n_trials=2, n_startup_trials=2, select="knee")
    assert rules(jobs, "phase") == {"optimize", "score_finalists", "select_best"}
    jobs = planner.plan(n_trials=3, select="knee")
    assert rules(jobs, "phase") == {"score_finalists", "select_best"}


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_a_prompt_set_makes_only_its_own_job_stale(planner: Planner, name: str) -> None:
    jobs = planner.plan(**{name: CHANGED[name]})
    assert [n for n, job in jobs.items() if job["phase"]] == [f"load_prompts demo {name}"]


def test_an_optional_set_that_is_switched_off_is_missed(planner: Planner) -> None:
    jobs = planner.plan(sacred_prompts="false")
    assert rules(jobs, "phase") == rules(jobs, "inputs") == {
        "check_prompts", "compute_directions", "evaluate", "save",
    }  # fmt: skip


def test_another_pick_is_made_beside_the_result(planner: Planner) -> None:
    jobs = planner.plan(select="closest,trial=2")
    assert {n for n, job in jobs.items() if job["phase"] and not n.endswith("trial-2")} == {
        "report demo"
    }
    assert rules(jobs, "inputs") == {"report"}
    further = ("score_finalists", "select_best", "apply_best", "evaluate", "benchmark", "save")
    assert planned(jobs) == {*(f"{rule} demo /picks/trial-2" for rule in further)} | {
        "report demo", "all",
    }  # fmt: skip


def test_which_trial_is_taken_is_no_matter_of_the_search(planner: Planner) -> None:
    for changes in ({"select": "knee"}, {"n_finalists": 2}, {"select_max_kl": 0.2}):
        jobs = planner.plan(**changes)
        assert {"score_finalists", "select_best", "save"} <= {
            name.split()[0] for name in planned(jobs)
        }
        assert "optimize demo" not in planned(jobs)


def test_benchmarks_that_are_switched_off_are_missed(planner: Planner) -> None:
    jobs = planner.plan(benchmarks="")
    assert rules(jobs, "phase") == rules(jobs, "inputs") == {"save", "report"}


def test_another_pick_does_not_score_the_original_again(planner: Planner) -> None:
    names = {name.split()[0] for name in planned(planner.plan(select="knee"))}
    assert "benchmark" in names
    assert "benchmark_original" not in names


def test_the_benchmark_of_the_run_is_in_its_model_card(planner: Planner) -> None:
    run = planner.workspace.results / "demo"
    found = read_json(run / "benchmarks.json")
    assert found["tasks"]["words"]["n"] == len(QUESTIONS)
    assert found["tasks"]["words"]["metrics"]["acc"]["difference"]["paired"] is True
    assert "| words (0-shot) | acc" in (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "words (0-shot)" in (run / "report.html").read_text(encoding="utf-8")


def test_another_model_makes_the_rules_of_its_row_stale(planner: Planner) -> None:
    """The same weights in another folder, with the prompts and the run of before."""
    results = planner.workspace.results
    copy = Path(shutil.copytree(results / "demo-model", results.parent / "same-weights"))
    sources = {name: {**CHANGED[name], "split": name} for name in PROMPT_SETS}
    jobs = planner.plan(model=str(copy), run_name="demo", **sources)
    assert rules(jobs, "phase") - {"load_prompts"} == set(rules_of(Settings.model_fields["model"]))


def test_another_run_name_is_a_run_of_its_own(planner: Planner) -> None:
    jobs = planner.plan(run_name="other")
    assert planned(jobs) == {
        name for name, job in jobs.items() if job["rule"] != "train_demo_model"
    }
    assert "optimize other" in jobs


def test_another_repository_makes_only_the_upload_stale(planner: Planner) -> None:
    jobs = planner.plan(upload_to="tester/elsewhere")
    assert rules(jobs, "phase") == {"upload"} == set(rules_of(Settings.model_fields["upload_to"]))
    assert planned(jobs) == {"upload demo", "all"}


def test_the_same_values_from_another_source_make_nothing_stale(planner: Planner) -> None:
    """What a file or the command line says, said by variables."""
    values = Settings(**BASE).model_dump(mode="json", include=set(CHANGED))
    assert planned(planner.plan(**values)) == set()
    variables = {
        f"HERETIC_{name.upper()}": ""
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value)
        for name, value in values.items()
    }
    assert planned(planner.plan(*CHANGED, environ=variables)) == set()


def test_touching_files_makes_nothing_stale(planner: Planner) -> None:
    folder = planner.workspace.folder
    for part in ("scripts", "workflow", "config", "results"):
        for path in (folder / part).rglob("*"):
            path.touch()
    assert planned(planner.plan()) == set()


def library_modules() -> list[str]:
    library = HERE.parents[1] / "workflow" / "heretic"
    return sorted(path.relative_to(library).as_posix() for path in library.rglob("*.py"))


def test_prose_makes_nothing_stale(planner: Planner) -> None:
    """Comments, docstrings and descriptions of settings, of all modules and scripts at once."""
    folder = planner.workspace.folder
    paths = [*(folder / "workflow" / "heretic").rglob("*.py"), *(folder / "scripts").glob("*.py")]
    before = {path: path.read_text(encoding="utf-8") for path in paths}
    edited = {path: with_other_prose(text) for path, text in before.items()}
    assert sum(edited[path] != before[path] for path in paths) > 150
    try:
        for path, text in edited.items():
            path.write_text(text, encoding="utf-8")
        assert planned(planner.plan()) == set()
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


def with_other_prose(source: str) -> str:
    """Source with another docstring in its module and each function, and another comment."""
    lines = source.splitlines()
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node):
            first = node.body[0]
            lines[first.lineno - 1] = lines[first.lineno - 1].replace('"""', '"""Edited. ', 1)
    return "\n".join([*lines, "", "# edited", ""])


@pytest.mark.parametrize("module", library_modules())
def test_editing_a_module_makes_its_dependants_stale(planner: Planner, module: str) -> None:
    folder = planner.workspace.folder
    library, path = folder / "workflow" / "heretic", folder / "workflow" / "heretic" / module
    before, digest = path.read_text(), sha256_of(path)
    rule_names = {p.stem for p in (folder / "scripts").glob("*.py")}
    using = {r for r in rule_names if path in module_files(folder / "scripts" / f"{r}.py", library)}
    path.write_text(before + "\nEDITED = 1\n")
    try:
        jobs = planner.plan()
    finally:
        path.write_text(before)
    first = {name for name, job in jobs.items() if job["rule"] in using}
    assert planned(jobs) == and_all_after(jobs, first)
    assert sha256_of(path) == digest


@pytest.mark.parametrize(
    "script", sorted(p.stem for p in (HERE.parents[1] / "scripts").glob("*.py"))
)
def test_editing_a_script_makes_its_rule_stale(planner: Planner, script: str) -> None:
    path = planner.workspace.folder / "scripts" / f"{script}.py"
    before = path.read_text()
    path.write_text(before + "\nEDITED = 1\n")
    try:
        jobs = planner.plan()
    finally:
        path.write_text(before)
    own = {name for name, job in jobs.items() if job["rule"] == script}
    assert own
    assert planned(jobs) == and_all_after(jobs, own)
    os.utime(path)
    assert planned(planner.plan()) == set()

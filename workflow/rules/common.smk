# Settings of each run, and what rules say about them. Everything else is in the library.

import os
import re
import sys
from pathlib import Path

try:
    import heretic
except ImportError:
    sys.exit("heretic is not installed: pip install -c envs/constraints.txt -e .")

from heretic.console import one_line_errors, start_logging
from heretic.dependencies import module_files
from heretic.model.source import tokenizer_files
from heretic.preflight import check_run
from heretic.settings import resolve
from heretic.settings.cascade import read_toml, variables
from heretic.settings.prompt_sources import DEMO, OPTIONAL_SETS, PROMPT_SETS

# Threads that spin while they wait cost several times their work on a busy machine; torch reads
# this when a job imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LIBRARY = Path(heretic.__file__).parent
SCRIPTS = Path(workflow.basedir) / "scripts"
DEMO_MODEL = "results/demo-model"
DEMO_MANIFEST = "results/demo-model.manifest.json"


# Keys of `config` that are no settings: what jobs read but are not compared by.
UNTRACKED = ("runtime", "settings")


def resolve_runs():
    start_logging()
    with one_line_errors():
        toml = Path("config.toml")
        file = {**config, **(read_toml(toml) if toml.is_file() else {})}
        for key in UNTRACKED:
            file.pop(key, None)
        runs = resolve(file, os.environ, workflow.config_settings.config).runs()
        if workflow.is_main_process:
            for run, settings in runs.items():
                check_run(run, settings)
        return runs


RUNS = resolve_runs()
# What no job is compared by: settings that change how something is computed but never what comes
# out, and those that the report prints.
config["runtime"] = {run: settings.runtime() for run, settings in RUNS.items()}
config["settings"] = {
    run: settings.model_dump(mode="json") for run, settings in RUNS.items()
}


envvars:
    *variables(os.environ),


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),
    prompts="|".join(PROMPT_SETS),


def settings_of(rule):
    """One plain dict per job: Snakemake compares parameters by their text."""
    return lambda wildcards: RUNS[wildcards.run].subset(rule)


def source_of(rule):
    """The library modules that the rule's script imports; editing one makes the rule stale."""
    return [
        os.path.relpath(path) for path in module_files(SCRIPTS / f"{rule}.py", LIBRARY)
    ]


def model_path(wildcards):
    model = RUNS[wildcards.run].model
    return DEMO_MODEL if model == DEMO else model


def model_files(wildcards):
    """What makes results stale when the model changes on disk; a hub model has its revision."""
    if RUNS[wildcards.run].model == DEMO:
        return [DEMO_MANIFEST]
    folder = Path(model_path(wildcards)).expanduser()
    return sorted(map(str, [*tokenizer_files(folder), *folder.glob("*.safetensors")]))


def prompt_files(*sets):
    """The prompt files of those of `sets` that the run uses."""
    return lambda wildcards: {
        name: f"results/{wildcards.run}/prompts/{name}.jsonl"
        for name in sets
        if name in RUNS[wildcards.run].prompt_sources()
    }


def fingerprint_files(wildcards):
    """What is known of where each prompt set of the run comes from."""
    return [
        str(Path(path).with_suffix(".fingerprint.json"))
        for path in prompt_files(*PROMPT_SETS)(wildcards).values()
    ]


def seed_of_set(wildcards):
    """Only the demo's prompts are drawn; others must not depend on the seed."""
    drawn = source_of_set(wildcards).dataset == DEMO
    return RUNS[wildcards.run].subset("load_prompts") if drawn else {"seed": 0}


def source_of_set(wildcards):
    return RUNS[wildcards.run].prompt_sources()[wildcards.prompts]


def source_files(wildcards):
    """The file of a set that comes from one, so that editing it makes the set stale."""
    path = Path(source_of_set(wildcards).dataset).expanduser()
    return str(path) if path.is_file() else []


def residual_files(wildcards):
    sets = ("good_prompts", "bad_prompts", *OPTIONAL_SETS)
    folder = f"results/{wildcards.run}/residuals"
    used = RUNS[wildcards.run].prompt_sources()
    return {name: f"{folder}/{name}.safetensors" for name in sets if name in used}


def targets(run):
    names = ["model.manifest.json", "report.html"]
    if RUNS[run].upload_to:
        names.append("upload.json")
    return [f"results/{run}/{name}" for name in names]


def print_summaries():
    from heretic.artifacts import read_json
    from heretic.report.table import summary_table

    for run in RUNS:
        path = Path(f"results/{run}/evaluation.json")
        if path.is_file():
            print(f"\n{run}: report in results/{run}/report.html")
            print(summary_table(read_json(path)), flush=True)

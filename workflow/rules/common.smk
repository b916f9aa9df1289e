# Settings of each run, and what rules say about them. Everything else is in the library.

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

try:
    import heretic
except ImportError:
    sys.exit("heretic is not installed: pip install -c envs/constraints.txt -e .")

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "rules"))

from calm import keep_calm


def kept(run, since):
    """What an interrupted search keeps, as part of a sentence; nothing before its first trial."""
    from heretic.optimization.study import kept_trials

    # There may be no database yet; the next run says what is wrong with one.
    with suppress(HereticError):
        done = kept_trials(RESULTS / run / "study.db", since)
        if done is not None:
            of_run = f" of {run}" if len(RUNS) > 1 else ""
            return f"{done} of {RUNS[run].n_trials} trials{of_run} are"
    return ""


# Before the imports that take a second, in which the user may interrupt.
if workflow.is_main_process:
    shell.prefix(keep_calm(workflow, kept))

from heretic.console import one_line_errors, start_logging
from heretic.demo.folder import folder_name
from heretic.dependencies import module_files
from heretic.errors import HereticError
from heretic.evaluation.benchmark_tasks import task_files
from heretic.model.source import checkpoint_files
from heretic.preflight import check_run, check_working_folder, pinned, scorer_files
from heretic.prompts.sources import local_files
from heretic.report.table import run_summaries
from heretic.settings import Settings, configuration_files, resolve
from heretic.settings.cascade import variables
from heretic.settings.prompt_sources import DEMO, OPTIONAL_SETS, PROMPT_SETS, STATE_SETS
from heretic.settings.values import DEFAULT_PLANTED

# Threads that spin while they wait cost several times their work on a busy machine; torch reads
# this when a job imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LIBRARY = Path(heretic.__file__).parent
SCRIPTS = Path(workflow.basedir) / "scripts"
RESULTS = Path("results")
WARM_STARTS = Path(workflow.basedir) / "config" / "warm_start"
# Tells jobs, here or on another machine, the settings that the main process has resolved.
PINNED = "WORKFLOW_PINNED"


def resolve_runs():
    """Settings of each run; jobs, which read this file again, take those of its start."""
    if not workflow.is_main_process and PINNED in os.environ:
        known = json.loads(os.environ[PINNED])
        return {run: Settings(**values) for run, values in known.items()}
    start_logging()
    with one_line_errors():
        check_working_folder(Path())
        # Not `config`, into which Snakemake has merged the files key by key, also inside the
        # prompt sets, where naming another dataset starts anew.
        files = configuration_files(Path(), workflow.config_settings.configfiles)
        found = resolve(files, os.environ, workflow.config_settings.config).runs()
        for run, settings in found.items():
            check_run(run, settings, RESULTS)
        return {run: pinned(settings) for run, settings in found.items()}


RUNS = resolve_runs()
# What follows results/{run} where a trial that `select` takes is saved; nothing for the first one.
PICKS = list(
    dict.fromkeys(pick for settings in RUNS.values() for pick in settings.picks())
)
# Runs side by side have the same options, so at most one demo model.
DEMO_NAME = folder_name(next(iter(RUNS.values())))
DEMO_MODEL = f"{RESULTS}/{DEMO_NAME}"
DEMO_MANIFEST = f"{DEMO_MODEL}.manifest.json"
os.environ[PINNED] = json.dumps(
    {
        run: settings.model_dump(mode="json", exclude_unset=True)
        for run, settings in RUNS.items()
    }
)
# They need no command line, and Snakemake's own quoting of it would lose line breaks and quotes.
workflow.config_settings.config_args = []
# What no job is compared by: settings that change how something is computed but never what comes
# out, and those that the report prints.
config["runtime"] = {run: settings.runtime() for run, settings in RUNS.items()}
config["settings"] = {
    run: settings.model_dump(mode="json") for run, settings in RUNS.items()
}


envvars:
    *variables(os.environ),
    PINNED,


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),
    prompts="|".join(PROMPT_SETS),
    pick=f"({'|'.join(map(re.escape, PICKS))})",


def settings_of(rule):
    """One plain dict per job: Snakemake compares parameters by their text."""
    return lambda wildcards: RUNS[wildcards.run].subset(rule)


def settings_of_pick(rule):
    """The same with the one rule that takes the job's trial, whichever others there are."""
    return lambda wildcards: {
        **RUNS[wildcards.run].subset(rule),
        "select": RUNS[wildcards.run].picks()[wildcards.pick],
    }


def source_of(rule):
    """The rule's script and the library modules that it imports; editing one makes it stale."""
    script = SCRIPTS / f"{rule}.py"
    return [os.path.relpath(path) for path in [script, *module_files(script, LIBRARY)]]


def model_path(wildcards):
    model = RUNS[wildcards.run].model
    return DEMO_MODEL if model == DEMO else model


def model_files(wildcards):
    """What makes results stale when the model changes on disk; a hub model has its revision."""
    model = RUNS[wildcards.run].model
    return [DEMO_MANIFEST] if model == DEMO else checkpoint_files(model)


def original_files(wildcards):
    """The same of the model that is exported, where that is not the one that is searched."""
    return checkpoint_files(RUNS[wildcards.run].export_from)


def warm_start_files(wildcards):
    """Where the first trials come from; of all families, since the demo's may not be known yet."""
    settings = RUNS[wildcards.run]
    if settings.warm_start_from:
        return [settings.warm_start_from]
    if settings.warm_start == "auto":
        return sorted(os.path.relpath(path) for path in WARM_STARTS.glob("*.yaml"))
    return [settings.warm_start] if settings.warm_start else []


def prompt_files(*sets):
    """The prompt files of those of `sets` that the run uses."""
    return lambda wildcards: {
        name: f"results/{wildcards.run}/prompts/{name}.jsonl"
        for name in sets
        if name in RUNS[wildcards.run].prompt_sources()
    }


def plain_texts(wildcards):
    """Plain texts, where the run has them and further scores, which may read them."""
    further = ["unhelpfulness_prompts"] if RUNS[wildcards.run].scorers else []
    return list(prompt_files(*further)(wildcards).values())


def files_of_scorers(wildcards):
    """Scorers of the user's own, so that editing one makes its scores stale."""
    return scorer_files(RUNS[wildcards.run])


def fingerprint_files(wildcards):
    """What is known of where each prompt set of the run comes from."""
    return [
        str(Path(path).with_suffix(".fingerprint.json"))
        for path in prompt_files(*PROMPT_SETS)(wildcards).values()
    ]


def settings_of_protected(wildcards):
    """Only of plain texts the mean alone may be kept; the other set must not depend on that."""
    found = RUNS[wildcards.run].subset("extract_protected_residuals")
    plain_texts = wildcards.prompts == "unhelpfulness_prompts"
    return found if plain_texts else {**found, "stream_unhelpfulness": False}


def settings_of_set(wildcards):
    """A set depends on the seed and on what the demo refuses only where it is drawn by them."""
    sources, settings = sources_of_set(wildcards), RUNS[wildcards.run]
    drawn = any(source.depends_on_seed for source in sources)
    of_demo = any(source.dataset == DEMO for source in sources)
    return {
        "seed": settings.seed if drawn else 0,
        "demo_planted": settings.demo_planted if of_demo else DEFAULT_PLANTED,
    }


def sources_of_set(wildcards):
    return RUNS[wildcards.run].prompt_sources()[wildcards.prompts]


def source_files(wildcards):
    """The files of a set that comes from some, so that editing one makes the set stale."""
    paths = (local_files(source) for source in sources_of_set(wildcards))
    return [str(path) for found in paths for path in found]


def own_task_files(wildcards):
    """The user's own benchmarks, so that editing one makes its scores stale."""
    return task_files(RUNS[wildcards.run].benchmark_tasks)


def benchmark_files(wildcards):
    """The scores of benchmarks, where the run has any."""
    run = wildcards.run
    pick = wildcards.get("pick", "")
    return [f"results/{run}{pick}/benchmarks.json"] if RUNS[run].benchmarks else []


def residual_files(wildcards):
    folder = f"results/{wildcards.run}/residuals"
    used = prompt_files(*STATE_SETS, *OPTIONAL_SETS)(wildcards)
    return {name: f"{folder}/{name}.safetensors" for name in used}


def further_picks(name):
    """A file of the trial that each further rule of `select` takes."""
    return lambda wildcards: [
        f"results/{wildcards.run}{pick}/{name}"
        for pick in RUNS[wildcards.run].picks()
        if pick
    ]


def targets(run):
    manifests = [
        f"results/{run}{pick}/model.manifest.json" for pick in RUNS[run].picks()
    ]
    names = ["report.html", *(["upload.json"] if RUNS[run].upload_to else [])]
    return [*manifests, *(f"results/{run}/{name}" for name in names)]

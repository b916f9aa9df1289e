# Settings of each run, and input functions of the rules. Everything else is in the library.

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
    """Return the stored trials of an interrupted search as part of a sentence, or nothing."""
    from heretic.search.study import kept_trials

    # There may be no database yet; the next run reports a damaged one.
    with suppress(HereticError):
        done = kept_trials(RESULTS / run / "study.db", since)
        if done is not None:
            of_run = f" of {run}" if len(RUNS) > 1 else ""
            return f"{done} of {RUNS[run].n_trials} trials{of_run} are"
    return ""


# Before the slow imports, so that an interrupt during them is handled.
if workflow.is_main_process:
    shell.prefix(keep_calm(workflow, kept))

from heretic.artifacts import fingerprint, write_text
from heretic.console import one_line_errors, start_logging
from heretic.demo.folder import folder_name
from heretic.errors import HereticError
from heretic.benchmarks.tasks import task_files
from heretic.model.checkpoint import checkpoint_files
from heretic.preflight import check_run, check_working_folder, pinned, scorer_files
from heretic.prompts.sources import local_files
from heretic.report.table import run_summaries
from heretic.settings.resolve import resolve, variables
from heretic.settings.config_files import configuration_files
from heretic.settings.prompt_sources import DEMO, OPTIONAL_SETS, PROMPT_SETS, STATE_SETS
from heretic.settings.schema import Settings
from heretic.settings.types import DEFAULT_PLANTED

# Busy-waiting threads cost several times their work on a busy machine; torch reads this variable
# when a job imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

RESULTS = Path("results")
WARM_STARTS = Path(workflow.basedir) / "config" / "warm_start"
# Variable with the path of the resolved settings for jobs, here or on another machine. The settings
# themselves may exceed the 128 KiB limit of Linux per variable.
PINNED = "WORKFLOW_PINNED"


def resolve_runs():
    """Return the settings of each run; jobs, which parse this file again, use the pinned ones."""
    if not workflow.is_main_process and PINNED in os.environ:
        known = json.loads(Path(os.environ[PINNED]).read_text(encoding="utf-8"))
        return {run: Settings(**values) for run, values in known.items()}
    start_logging()
    with one_line_errors():
        check_working_folder(Path())
        # Not `config`: Snakemake merges its files key by key, even inside prompt sets, where
        # another dataset must replace the lower-precedence source.
        files = configuration_files(Path(), workflow.config_settings.configfiles)
        found = resolve(files, os.environ, workflow.config_settings.config).runs()
        for run, settings in found.items():
            check_run(run, settings, RESULTS)
        return {run: pinned(settings) for run, settings in found.items()}


RUNS = resolve_runs()
# Subfolders of results/{run} for the trials selected by `select`; empty for the first one.
PICKS = list(
    dict.fromkeys(pick for settings in RUNS.values() for pick in settings.picks())
)
# All runs of one invocation have the same options, so there is at most one demo model.
DEMO_SETTINGS = next(iter(RUNS.values())).subset("train_demo_model")
DEMO_NAME = folder_name(next(iter(RUNS.values())))
DEMO_MODEL = f"{RESULTS}/{DEMO_NAME}"
DEMO_MANIFEST = f"{DEMO_MODEL}.manifest.json"
RESOLVED = {
    run: settings.model_dump(mode="json", exclude_unset=True)
    for run, settings in RUNS.items()
}
if workflow.is_main_process:
    os.environ[PINNED] = f".snakemake/heretic/{fingerprint(RESOLVED)}.json"
# Jobs do not need the command line, and Snakemake's quoting would lose line breaks and quotes.
workflow.config_settings.config_args = []
# Excluded from staleness checks: settings that change how something is computed, with the same
# results up to rounding, and the settings printed in the report.
config["runtime"] = {run: settings.runtime() for run, settings in RUNS.items()}
config["settings"] = {
    run: settings.model_dump(mode="json") for run, settings in RUNS.items()
}

RUN_RULES = (
    *("check_prompts", "find_response_prefix", "extract_residuals"),
    *("compute_directions", "optimize", "report"),
)
PICK_RULES = ("score_finalists", "select_best", "apply_best", "evaluate", "save")


envvars:
    *variables(os.environ),
    PINNED,


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),
    prompts="|".join(PROMPT_SETS),
    pick=f"({'|'.join(map(re.escape, PICKS))})",


onstart:
    write_text(Path(os.environ[PINNED]), json.dumps(RESOLVED))


def settings_of(rule):
    """Return an input function for the settings of `rule` as a plain dict."""
    return lambda wildcards: RUNS[wildcards.run].subset(rule)


def settings_of_pick(rule):
    """Return the same with only the selection rule of the job's pick."""
    return lambda wildcards: {
        **RUNS[wildcards.run].subset(rule),
        "select": RUNS[wildcards.run].picks()[wildcards.pick],
    }


def model_path(wildcards):
    model = RUNS[wildcards.run].model
    return DEMO_MODEL if model == DEMO else model


def model_files(wildcards):
    """Return the files that track changes of the model on disk; a hub model has its revision."""
    model = RUNS[wildcards.run].model
    return [DEMO_MANIFEST] if model == DEMO else checkpoint_files(model)


def original_files(wildcards):
    """Return the same for the exported model, if it is not the searched one."""
    return checkpoint_files(RUNS[wildcards.run].export_from)


def warm_start_files(wildcards):
    """Return the warm-start files; of all families, since the demo's may not be known yet."""
    settings = RUNS[wildcards.run]
    if settings.warm_start_from:
        return [settings.warm_start_from]
    if settings.warm_start == "auto":
        return sorted(os.path.relpath(path) for path in WARM_STARTS.glob("*.yaml"))
    return [settings.warm_start] if settings.warm_start else []


def prompt_files(*sets):
    """Return the prompt files of `sets` that are in use by the run."""
    return lambda wildcards: {
        name: f"results/{wildcards.run}/prompts/{name}.jsonl"
        for name in sets
        if name in RUNS[wildcards.run].prompt_sources()
    }


def plain_texts(wildcards):
    """Return the plain text, if the run has any and additional scorers, which may read it."""
    further = ["unhelpfulness_prompts"] if RUNS[wildcards.run].scorers else []
    return list(prompt_files(*further)(wildcards).values())


def files_of_scorers(wildcards):
    """Return the files of custom scorers, so that editing one makes its scores stale."""
    return scorer_files(RUNS[wildcards.run])


def fingerprint_files(wildcards):
    """Return the files with the provenance of each prompt set of the run."""
    return [
        str(Path(path).with_suffix(".fingerprint.json"))
        for path in prompt_files(*PROMPT_SETS)(wildcards).values()
    ]


def settings_of_protected(wildcards):
    """Return the settings of an optional set; `unhelpfulness_mean_only` applies only to plain text."""
    found = RUNS[wildcards.run].subset("extract_protected_residuals")
    plain_texts = wildcards.prompts == "unhelpfulness_prompts"
    return found if plain_texts else {**found, "unhelpfulness_mean_only": False}


def settings_of_set(wildcards):
    """Return the seed and the planted class, or defaults if the set does not depend on them."""
    sources, settings = sources_of_set(wildcards), RUNS[wildcards.run]
    drawn = any(source.depends_on_seed for source in sources)
    of_demo = any(source.dataset == DEMO for source in sources)
    return {
        "seed": settings.seed if drawn else 0,
        "demo_refusal_class": settings.demo_refusal_class if of_demo else DEFAULT_PLANTED,
    }


def settings_and_sources_of_set(wildcards):
    sources = [source.model_dump(mode="json") for source in sources_of_set(wildcards)]
    return {**settings_of_set(wildcards), "sources": sources}


def sources_of_set(wildcards):
    return RUNS[wildcards.run].prompt_sources()[wildcards.prompts]


def source_files(wildcards):
    """Return the source files of a set, so that editing one makes the set stale."""
    paths = (local_files(source) for source in sources_of_set(wildcards))
    return [str(path) for found in paths for path in found]


def own_task_files(wildcards):
    """Return the files of custom benchmarks, so that editing one makes its scores stale."""
    return task_files(RUNS[wildcards.run].benchmark_tasks)


def benchmark_files(wildcards):
    """Return the benchmark scores, if the run has any."""
    run = wildcards.run
    pick = wildcards.get("pick", "")
    return [f"results/{run}{pick}/benchmarks.json"] if RUNS[run].benchmarks else []


def residual_files(wildcards):
    folder = f"results/{wildcards.run}/residuals"
    used = prompt_files(*STATE_SETS, *OPTIONAL_SETS)(wildcards)
    return {name: f"{folder}/{name}.safetensors" for name in used}


def further_picks(name):
    """Return an input function for a file of each further pick."""
    return lambda wildcards: [
        f"results/{wildcards.run}{pick}/{name}"
        for pick in RUNS[wildcards.run].picks()
        if pick
    ]


def outputs_of(names, **wildcards):
    """Return all outputs of some rules, for each value of their wildcards."""
    return [
        path
        for name in names
        for path in expand(map(str, getattr(rules, name).output), **wildcards)
    ]


def targets(run):
    """Return all artifacts of a run.

    Intermediate ones are included: a killed job leaves none of its outputs, and Snakemake would not
    detect that as long as older final results exist.
    """
    settings, picks = RUNS[run], list(RUNS[run].picks())
    used = list(settings.prompt_sources())
    protected = [name for name in used if name in OPTIONAL_SETS]
    scored = ["benchmark"] if settings.benchmarks else []
    return [
        *([DEMO_MANIFEST] if settings.model == DEMO else []),
        *outputs_of(["load_prompts"], run=run, prompts=used),
        *outputs_of(["extract_protected_residuals"], run=run, prompts=protected),
        *outputs_of(RUN_RULES, run=run),
        *outputs_of(["benchmark_original"] if scored else [], run=run),
        *outputs_of([*PICK_RULES, *scored], run=run, pick=picks),
        *outputs_of(["upload"] if settings.upload_to else [], run=run),
    ]

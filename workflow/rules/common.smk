# Input functions of the rules.

from heretic.benchmarks.tasks import task_files
from heretic.model.checkpoint import checkpoint_files
from heretic.preflight import scorer_files
from heretic.prompts.sources import local_files
from heretic.settings import job_settings
from heretic.settings.prompt_sources import DEMO, OPTIONAL_SETS, STATE_SETS

WARM_STARTS = Path(workflow.basedir) / "config" / "warm_start"


def settings_of(rule):
    """Return an input function for the settings of `rule` as a plain dict."""
    return lambda wildcards: RUNS[wildcards.run].subset(rule)


def settings_of_pick(rule):
    """Return the same with only the selection rule of the job's pick."""
    return lambda wildcards: job_settings.settings_of_pick(
        RUNS[wildcards.run], rule, wildcards.pick
    )


def settings_of_protected(wildcards):
    return job_settings.settings_of_protected(RUNS[wildcards.run], wildcards.prompts)


def settings_of_set(wildcards):
    return job_settings.settings_of_set(RUNS[wildcards.run], wildcards.prompts)


def settings_and_sources_of_set(wildcards):
    sources = [source.model_dump(mode="json") for source in sources_of_set(wildcards)]
    return {**settings_of_set(wildcards), "sources": sources}


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

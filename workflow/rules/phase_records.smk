# Files that record settings and code, as inputs of the rules they affect. Whatever earlier jobs
# did, results computed with other settings are older than the current record.

import json
import tempfile
from functools import cache

from heretic.console import lock_of, log
from heretic.source_tracking import code_fingerprints
from heretic.locks import is_held
from heretic.phases import FOLDER as PHASES
from heretic.phases import Phase, continued_search

LIBRARY = Path(heretic.__file__).parent
SCRIPTS = Path(workflow.basedir) / "scripts"
# Rules whose inputs depend on the prompt sets of a run.
READING_SETS = ("check_prompts", "compute_directions", "evaluate", "save")
# Log lines about a single run do not name it.
ONE_RUN = tuple(RUNS) if len(RUNS) == 1 else ()


def choices_of(name, wildcards):
    """Return the choices that determine a rule's inputs beyond its own settings."""
    run = RUNS[wildcards.run]
    choices = (
        {"model_path": model_path(wildcards)} if "model" in run.subset(name) else {}
    )
    if name in READING_SETS:
        choices["prompt_sets"] = sorted(run.prompt_sources())
    if name in ("save", "report"):
        choices["benchmarks"] = bool(run.benchmarks)
    if name == "report":
        choices["further_picks"] = list(run.picks())[1:]
    return choices


def phase_of(rule, settings=None):
    """Return an input function for a job's record of settings and code, updating the record."""
    settings = settings or settings_of(rule)

    def phase(wildcards):
        place = f"{wildcards.run}{wildcards.get('pick', '')}"
        name = Path(rule, wildcards.get("prompts", ""))
        values = {**settings(wildcards), **choices_of(rule, wildcards)}
        job = name if place in ONE_RUN else f"{place}: {name}"
        path = f"{RESULTS}/{place}/{PHASES}/{name}.json"
        return recorded(path, rule, json.dumps(values), f"logs/{place}/{name}.log", job)

    return phase


@cache
def recorded(path, script, values, log_file, job=None):
    """Write a changed record and log the changes; a dry run writes a copy instead."""
    if not workflow.is_main_process:
        return path
    code = code_fingerprints(SCRIPTS / f"{script}.py", LIBRARY)
    place, phase = Path(path), Phase(script, json.loads(values), code)
    if script == "optimize":
        phase = continued_search(phase, place, place.parents[1] / "study.json")
    if phase.is_recorded(place):
        return path
    if changes := phase.changes(place):
        log.info("%s: %s", job or script, ", ".join(changes))
    # Other commands, such as a dry run, must not affect a later run.
    executing = workflow.executor_plugin is not None and not workflow.dryrun
    if not executing:
        path = f"{elsewhere().name}/{path}"
    elif place.exists() and is_held(lock_of(log_file)):
        return path  # The running job matches this record; ours will be rejected.
    phase.record(Path(path))
    return path


@cache
def elsewhere():
    """Return a temporary folder that is deleted when this process ends."""
    return tempfile.TemporaryDirectory(prefix="heretic-")

# Settings of each run: resolved and checked once, then read by the jobs.

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

from heretic.console import one_line_errors, start_logging
from heretic.demo.folder import folder_name
from heretic.errors import HereticError
from heretic.report.table import run_summaries
from heretic.runs import PINNED, pinned_file, read_pinned, resolve_runs, write_pinned
from heretic.settings.prompt_sources import PROMPT_SETS
from heretic.settings.resolve import variables

# Busy-waiting threads cost several times their work on a busy machine; torch reads this variable
# when a job imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

RESULTS = Path("results")


def settings_of_runs():
    """Return the settings of each run; jobs, which parse this file again, read the pinned ones."""
    if not workflow.is_main_process and PINNED in os.environ:
        return read_pinned(Path(os.environ[PINNED]))
    start_logging()
    given = workflow.config_settings
    with one_line_errors():
        return resolve_runs(
            given.configfiles, os.environ, given.config, RESULTS, sys.argv[1:]
        )


RUNS = settings_of_runs()
# Subfolders of results/{run} for the trials selected by `select`; empty for the first one.
PICKS = list(
    dict.fromkeys(pick for settings in RUNS.values() for pick in settings.picks())
)
# All runs of one invocation have the same options, so there is at most one demo model.
DEMO_SETTINGS = next(iter(RUNS.values())).subset("train_demo_model")
DEMO_NAME = folder_name(next(iter(RUNS.values())))
DEMO_MODEL = f"{RESULTS}/{DEMO_NAME}"
DEMO_MANIFEST = f"{DEMO_MODEL}.manifest.json"
if workflow.is_main_process:
    os.environ[PINNED] = str(pinned_file(RUNS))
# Jobs do not need the command line, and Snakemake's quoting would lose line breaks and quotes.
workflow.config_settings.config_args = []
# Excluded from staleness checks: settings that change how something is computed, with the same
# results up to rounding, and the settings printed in the report.
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


onstart:
    write_pinned(Path(os.environ[PINNED]), RUNS)

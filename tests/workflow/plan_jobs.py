"""Asks Snakemake's own API what it would run; a process that answers a question a line.

python plan_jobs.py     in a workspace; reads {"config": {...}, "environ": {...}} lines and writes
                        {job: {"rule", "phase", "inputs", "planned", "after"}} lines
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from humanfriendly import parse_size
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    ExecutionSettings,
    OutputSettings,
    ResourceSettings,
    SchedulingSettings,
)

from heretic import source_tracking


def main() -> None:
    """Answer every line of the standard input."""
    for name in ("_fingerprint", "_imported"):
        setattr(source_tracking, name, _by_content(getattr(source_tracking, name).__wrapped__))
    profile = yaml.safe_load(Path("profiles/default/config.yaml").read_text())
    for line in sys.stdin:
        question = json.loads(line)
        os.environ.update(question["environ"])
        try:
            answer = plan(question["config"], profile)
        finally:
            for name in question["environ"]:
                del os.environ[name]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def plan(config: dict[str, Any], profile: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every job of the run, and what Snakemake holds against its results."""
    quiet = OutputSettings(dryrun=True, quiet={Quietness.ALL})
    with SnakemakeApi(quiet) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=config),
            snakefile=Path("Snakefile"),
        )
        graph = workflow.dag(
            DAGSettings(
                rerun_triggers=frozenset(RerunTrigger.parse_choices_set(profile["rerun-triggers"])),
                max_checksum_file_size=parse_size(profile["max-checksum-file-size"]),
                force_incomplete=profile["rerun-incomplete"],
            )
        )
        graph.execute_workflow(
            executor="dryrun",
            execution_settings=ExecutionSettings(lock=not profile["nolock"]),
            scheduling_settings=SchedulingSettings(),
        )
        dag = workflow._workflow_store.dag
        return {_name(job): _facts(job, dag) for job in dag.jobs}


def _by_content(read: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function of a source file read it again only when its content is another one.

    Each plan of a user is a process of its own, which reads the source as it is; most of a plan's
    time goes into that.
    """
    known: dict[tuple[Any, ...], Any] = {}

    def of(path: Path, *more: Any) -> Any:
        key = (path, path.read_bytes(), *more)
        if key not in known:
            known[key] = read(path, *more)
        return known[key]

    return of


def _name(job: Any) -> str:
    return " ".join([job.rule.name, *job.wildcards])


def _facts(job: Any, dag: Any) -> dict[str, Any]:
    reason, known = dag.reason(job), dag.workflow.persistence
    reason.finished = False  # the dry run has ticked it off
    order = {file for file in job.input if file.is_ancient}  # must be there, may be newer
    has_outputs = bool(job.output) and not reason.missing_output
    return {
        "rule": job.rule.name,
        # Asked of each job, also of those that run anyway because an earlier one does.
        "phase": _is_recorded_elsewhere(job),
        "inputs": has_outputs and _other_inputs_changed(job, known),
        "planned": bool(reason),
        "after": [_name(other) for other, files in dag.dependencies[job].items() if files - order],
    }


def _is_recorded_elsewhere(job: Any) -> bool:
    """A dry run writes the record of settings and code that have changed to another folder."""
    record = job.input.get("phase")
    return record is not None and not record.startswith("results/")


def _other_inputs_changed(job: Any, known: Any) -> bool:
    now = {file for file in map(str, job.input) if "/.phases/" not in file}
    return any(
        now != {file for file in known.input(output) or () if "/.phases/" not in file}
        for output in job.output
    )


if __name__ == "__main__":
    main()

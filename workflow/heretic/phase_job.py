"""Execution of a phase as a job: its log, lock, one-line errors and record of settings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from heretic.console import job
from heretic.phases import unchanged_phase


class Script(Protocol):
    """What a phase needs of the object that a workflow manager passes to a script.

    Attributes:
        log: path of the log file, as the only item.
        input, params: files and parameters by name; `input.phase` is the record of the phase,
            `params.settings` its settings.
        config: `runtime` has the settings that affect no result, by run.
        wildcards: `run` is the name of the run.
    """

    log: Sequence[str]
    input: Any
    params: Any
    config: Mapping[str, Any]
    wildcards: Any


@contextmanager
def phase(script: Script, *, wait: bool = False) -> Iterator[dict[str, Any]]:
    """Run the block as a phase and yield its settings.

    Args:
        script: the job's files, settings and log.
        wait: wait for another process in the same phase instead of rejecting the job.
    """
    settings: dict[str, Any] = script.params.get("settings", {})
    with job(script.log[0], wait=wait), unchanged_phase(script.input.phase, settings):
        yield settings

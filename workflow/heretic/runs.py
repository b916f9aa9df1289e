"""Runs of one invocation: their settings, resolved, checked, and passed on to jobs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heretic.artifacts import fingerprint, write_text
from heretic.preflight import check_run, check_working_folder, pinned
from heretic.settings.config_files import configuration_files
from heretic.settings.resolve import resolve
from heretic.settings.schema import Settings
from heretic.settings.typed_text import check_typed_text

# Variable with the path of the resolved settings for jobs, here or on another machine. The settings
# themselves may exceed the 128 KiB limit of Linux per variable.
PINNED = "WORKFLOW_PINNED"


def resolve_runs(
    files: Sequence[Path],
    environment: Mapping[str, str],
    command_line: Mapping[str, Any],
    results: Path,
    arguments: Sequence[str] = (),
) -> dict[str, Settings]:
    """Return the checked settings of each run.

    Args:
        files: configuration files in the order of precedence. Snakemake's own merge is not used: it
            merges them key by key, even inside prompt sets, where another dataset must replace the
            one with lower precedence.
        environment: environment variables.
        command_line: settings from the command line.
        results: folder of the results.
        arguments: arguments of the process, with the settings of the command line as typed.

    Raises:
        HereticError: a setting is invalid, or a run cannot succeed.
    """
    check_working_folder(Path())
    check_typed_text(arguments, command_line)
    known = configuration_files(Path(), files)
    found = resolve(known, environment, command_line).runs()
    for run, settings in found.items():
        check_run(run, settings, results)
    return {run: pinned(settings) for run, settings in found.items()}


def pinned_file(runs: Mapping[str, Settings]) -> Path:
    """Return the path of the file with the settings of these runs for their jobs."""
    return Path(f".snakemake/heretic/{fingerprint(_plain(runs))}.json")


def write_pinned(path: Path, runs: Mapping[str, Settings]) -> None:
    """Write the settings of the runs for their jobs."""
    write_text(path, json.dumps(_plain(runs)))


def read_pinned(path: Path) -> dict[str, Settings]:
    """Read the settings that `write_pinned` wrote."""
    known = json.loads(path.read_text(encoding="utf-8"))
    return {run: Settings(**values) for run, values in known.items()}


def _plain(runs: Mapping[str, Settings]) -> dict[str, Any]:
    return {
        run: settings.model_dump(mode="json", exclude_unset=True) for run, settings in runs.items()
    }

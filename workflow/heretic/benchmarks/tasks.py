"""Names of the benchmarks in lm-evaluation-harness, looked up without downloads.

The harness is an optional dependency and slow to import, so it is imported only when needed.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heretic.benchmarks.scores import SUBSETS, known_as
from heretic.errors import SettingsError

NEAREST = 3


def check_benchmarks(names: Sequence[str], folder: str | None) -> None:
    """Reject benchmarks that are unknown or cannot be scored with the installed packages.

    Args:
        names: values of the setting `benchmarks`; if empty, nothing is checked.
        folder: value of the setting `benchmark_tasks`.

    Raises:
        SettingsError: the harness is not installed, the folder is invalid, or a name is unknown.
    """
    if not names:
        return
    if find_spec("lm_eval") is None:
        raise SettingsError(
            f"benchmarks={','.join(names)} needs the package lm_eval: pip install -c "
            "envs/constraints.txt -e '.[benchmarks]', or leave benchmarks empty"
        )
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise SettingsError(
            f"benchmark_tasks = {folder!r} is not a folder; specify the folder with your task files"
        )
    known = task_manager(names, folder).task_index
    for name in names:
        if known_as(name) not in known:
            raise SettingsError(_unknown(name, known))


def task_manager(names: Sequence[str], folder: str | None) -> Any:
    """Return lm-eval's task manager for its built-in tasks and the user's.

    If the user's files define all `names`, the thousands of built-in task files are not read.
    """
    if folder is None:
        return _manager(None, everything=True)
    own = _manager(folder, everything=False)
    needed = {known_as(name) for name in names} | _members(own.task_index)
    return own if needed <= own.task_index.keys() else _manager(folder, everything=True)


@cache
def _manager(folder: str | None, *, everything: bool) -> Any:
    from lm_eval.tasks import TaskManager

    place = None if folder is None else str(Path(folder).expanduser())
    return TaskManager(include_path=place, include_defaults=everything)


def task_files(folder: str | None) -> list[str]:
    """Return the paths of the files in a task folder: YAML, Python and data."""
    if folder is None:
        return []
    found = Path(folder).expanduser().rglob("*")
    return sorted(str(path) for path in found if path.is_file() and "__pycache__" not in path.parts)


def _members(index: dict[str, Any]) -> set[str]:
    """Return the tasks listed by groups."""
    groups = [entry.cfg for entry in index.values() if entry.cfg and "group" in entry.cfg]
    listed = [member for cfg in groups for member in cfg.get("task") or []]
    return {
        member if isinstance(member, str) else member.get("task") or member.get("group")
        for member in listed
    }


def _unknown(name: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, [*SUBSETS, *known], n=NEAREST, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists all"
    return f"benchmarks: lm-eval has no task {name!r}; {hint}"

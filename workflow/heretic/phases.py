"""Phase records: the settings and code that produced the results of one rule.

The main process writes a small JSON file for each rule and run, `.phases/<rule>.json`, only when
its content changes. Rules use the file as an input, so that changed settings or code make their
results stale, whether or not the workflow engine monitored the job that wrote them.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from heretic.artifacts import read_json, write_text
from heretic.errors import HereticError, one_line

FOLDER = ".phases"
# Maximum number of characters of a value in the explanation of a rerun.
VALUE_LENGTH = 60
N_TRIALS = "n_trials"
# Number of times a search was continued with more trials.
ROUND = "round"


@dataclass(frozen=True)
class Phase:
    """The settings and the code of one rule.

    Attributes:
        rule: name of the rule.
        settings: plain JSON values by name; includes any other settings that determine the
            rule's inputs.
        code: fingerprint of each file whose code the rule executes.
    """

    rule: str
    settings: Mapping[str, Any]
    code: Mapping[str, str]

    def is_recorded(self, path: Path) -> bool:
        """Return whether the file at `path` is a record of this phase."""
        try:
            return read_phase(path) == self._as_read()
        except HereticError:
            return False

    def changes(self, path: Path) -> list[str]:
        """Return the differences between the phase and the one recorded at `path`.

        Returns:
            Short texts such as `n_trials 60 -> 80`; empty if `path` contains no usable record.
        """
        try:
            before = read_phase(path)
        except HereticError:
            return []
        return [*_changed_settings(before.settings, self.settings), *_changed_code(before, self)]

    def record(self, path: Path) -> None:
        """Write the phase to `path` unless it is recorded there already.

        No two records have the same content: if settings change and change back, results written by
        a job in between, unmonitored by the workflow engine, would otherwise appear current. If the
        last finished job was one of this phase, its record is written again.
        """
        if self.is_recorded(path):
            return
        finished = _finished(path)
        if self.is_recorded(finished):
            write_text(path, finished.read_text(encoding="utf-8"))
            return
        fields = {"rule": self.rule, "settings": self.settings, "code": self.code}
        record = {**fields, "id": uuid4().hex}
        write_text(path, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def _as_read(self) -> "Phase":
        """Return the phase with its settings after a JSON round trip."""
        return Phase(self.rule, json.loads(json.dumps(self.settings)), self.code)


def read_phase(path: Path) -> Phase:
    """Read a phase record.

    Raises:
        HereticError: the file is missing or damaged.
    """
    found = read_json(path)
    rule, settings, code = (found.get(name) for name in ("rule", "settings", "code"))
    if not isinstance(rule, str) or not isinstance(settings, dict) or not isinstance(code, dict):
        raise HereticError(f"{path} is not a phase record; delete it and run again")
    return Phase(rule, settings, code)


def continued_search(phase: Phase, path: Path, results: Path) -> Phase:
    """Return the recorded phase if a search has enough trials, or else one to record.

    A smaller `n_trials` does not make a search stale: the rules that choose a trial consider the
    first `n_trials` of them.

    Args:
        phase: phase of a search, with the requested `n_trials`.
        path: path of the phase record.
        results: file of the search's results, which may not exist.
    """
    searched = _n_trials_of(results)
    try:
        before = read_phase(path)
    except HereticError:
        return Phase(phase.rule, {**phase.settings, ROUND: 0}, phase.code)
    recorded, round_before = before.settings.get(N_TRIALS), before.settings.get(ROUND, 0)
    requested = phase.settings[N_TRIALS]
    as_recorded = {**phase.settings, N_TRIALS: recorded, ROUND: round_before}
    same = Phase(phase.rule, as_recorded, phase.code)
    if same != before or not isinstance(recorded, int):
        return Phase(phase.rule, {**phase.settings, ROUND: 0}, phase.code)
    if searched is None and recorded == requested:
        return before
    if searched is not None and min(recorded, searched) >= requested:
        return before
    # The results may have fewer trials than the record, so the record must change as well.
    return Phase(phase.rule, {**phase.settings, ROUND: round_before + 1}, phase.code)


def _n_trials_of(results: Path) -> int | None:
    try:
        found = read_json(results).get(N_TRIALS)
    except HereticError:
        return None
    return found if isinstance(found, int) else None


@contextmanager
def unchanged_phase(path: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Reject results of settings other than those recorded for the phase.

    Another run in the same results folder may record other settings while a job waits or runs; the
    job's results would then be mistaken for those of the other settings.

    Args:
        path: path of the phase record.
        settings: settings of the job.

    Raises:
        HereticError: the record has other settings at the start, or different content at the end.
    """
    record = Path(path)
    before = read_phase(record)
    differing = [
        name
        for name, value in settings.items()
        if name != N_TRIALS and before.settings.get(name) != value
    ]
    if differing:
        raise HereticError(_overtaken(f"{', '.join(differing)} of {before.rule}"))
    _finished(record).unlink(missing_ok=True)
    text = record.read_text(encoding="utf-8")
    yield
    if read_phase(record) != before:
        raise HereticError(_overtaken(f"the settings or the code of {before.rule}"))
    write_text(_finished(record), text)


def _finished(record: Path) -> Path:
    """Return the path for the record of the last finished job."""
    return record.with_suffix(".finished")


def _overtaken(what: str) -> str:
    return (
        f"another run in the same results folder has changed {what} since this run started; run "
        "one of them at a time, or give each a run_name, and run again"
    )


def _changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    old, new = _flat(before), _flat(after)
    for name in sorted(old.keys() | new.keys(), key=lambda name: (name.count("."), name)):
        from_value, to_value = old.get(name, ...), new.get(name, ...)
        if name == ROUND or from_value == to_value:
            continue
        if _are_names(from_value) and _are_names(to_value) and set(from_value) != set(to_value):
            signs = [*(f"-{item}" for item in from_value if item not in to_value)]
            signs += [f"+{item}" for item in to_value if item not in from_value]
            yield one_line(f"{name} {' '.join(signs)}", VALUE_LENGTH * 2)
        else:
            yield f"{name} {_shown(from_value)} -> {_shown(to_value)}"


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _changed_code(before: Phase, after: Phase) -> Iterator[str]:
    names = before.code.keys() | after.code.keys()
    changed = sorted(n for n in names if before.code.get(n) != after.code.get(n))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        yield f"code of {changed[0]}{more}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted names, with elements of lists of objects numbered."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        items = value if isinstance(value, list) else []
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif items and all(isinstance(item, Mapping) for item in items):
            for number, item in enumerate(items, 1):
                label = f"{name}" if len(items) == 1 else f"{name}[{number}]"
                found |= _flat(item, f"{prefix}{label}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _shown(value: Any) -> str:
    if value is ...:
        return "(not set)"
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return one_line(text, VALUE_LENGTH)

"""Consistency of a run's saved models with its current search and selection."""

from pathlib import Path
from typing import Any

from heretic.artifacts import read_json, sha256_of
from heretic.errors import HereticError

FOLDER = "picks"


def outdated(saved: Path, run: Path) -> str | None:
    """Return why a saved model is not from the run's current search, or None if it is.

    Args:
        saved: folder of the run's model, or of the model of one of its picks.
        run: folder of the run.

    Raises:
        HereticError: an artifact is damaged.
    """
    study, best = run / "study.json", saved.with_name("best.json")
    if not study.is_file():
        return "it is from an earlier search, and the current search has not finished"
    if not best.is_file():
        return "it is from an earlier selection, and the current selection has not been made"
    if _study_of(best) != _study_of(study):
        return "it is from another study, with different settings, prompts, directions or code"
    if _chosen(read_json(saved / "ablation.json")) not in (None, sha256_of(best)):
        return "it is from an earlier selection, and the model of the current one is not saved yet"
    return None


def outdated_picks(run: Path) -> list[str]:
    """Return the names of the picks of a run that are from another study.

    Args:
        run: folder of the run.
    """
    study, picks = run / "study.json", sorted((run / FOLDER).glob("*/best.json"))
    if not picks or not study.is_file():
        return []
    current = _study_of(study)
    return [best.parent.name for best in picks if _study_of(best) != current]


def about_outdated_picks(run: Path) -> str:
    """Return a line that names the outdated picks of a run; empty if there are none."""
    names = outdated_picks(run)
    if not names:
        return ""
    are = "is" if len(names) == 1 else "are"
    return (
        f"{', '.join(f'{FOLDER}/{name}' for name in names)} {are} from another study and not "
        "shown; add the rule to `select` to update a pick, or delete its folder"
    )


def _study_of(path: Path) -> str:
    name = read_json(path).get("study")
    if not isinstance(name, str):
        raise HereticError(f"{path} does not name a study; delete it and run again")
    return name


def _chosen(record: dict[str, Any]) -> str | None:
    """Return the hash of the choice on which the record of an edit is based."""
    try:
        found = record["provenance"]["inputs"]["best"]
    except (KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None

"""Models of another study are named, and never taken for those of the current one."""

from pathlib import Path

from heretic.artifacts import sha256_of, write_json
from heretic.saved_picks import about_outdated_picks, outdated, outdated_picks


def saved(folder: Path, study: str, trial: int) -> Path:
    """A folder with a chosen trial and the model that was made of it."""
    write_json(folder / "best.json", {"study": study, "trial": trial})
    chosen = {"provenance": {"inputs": {"best": sha256_of(folder / "best.json")}}}
    write_json(folder / "model" / "ablation.json", chosen)
    return folder / "model"


def run_of_two_studies(run: Path) -> tuple[Path, Path, Path]:
    """The result and a pick of the current study, and a pick of an earlier one."""
    write_json(run / "study.json", {"study": "now"})
    result, pick = saved(run, "now", 3), saved(run / "picks" / "knee", "now", 4)
    return result, pick, saved(run / "picks" / "trial-12", "before", 12)


def test_only_the_pick_of_another_study_is_outdated(tmp_path: Path) -> None:
    result, pick, old = run_of_two_studies(tmp_path)
    assert outdated(result, tmp_path) is None
    assert outdated(pick, tmp_path) is None
    assert "another study" in str(outdated(old, tmp_path))
    assert outdated_picks(tmp_path) == ["trial-12"]
    assert about_outdated_picks(tmp_path).startswith("picks/trial-12 is from another study")


def test_nothing_is_said_where_nothing_is_outdated(tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", {"study": "now"})
    saved(tmp_path / "picks" / "knee", "now", 4)
    assert outdated_picks(tmp_path) == []
    assert about_outdated_picks(tmp_path) == ""


def test_a_search_that_has_not_finished_outdates_all(tmp_path: Path) -> None:
    result, _, _ = run_of_two_studies(tmp_path)
    (tmp_path / "study.json").unlink()
    assert "current search has not finished" in str(outdated(result, tmp_path))
    assert outdated_picks(tmp_path) == []


def test_a_model_of_an_earlier_choice_is_outdated(tmp_path: Path) -> None:
    result, _, _ = run_of_two_studies(tmp_path)
    write_json(tmp_path / "best.json", {"study": "now", "trial": 5})
    assert "is not saved yet" in str(outdated(result, tmp_path))
    (tmp_path / "best.json").unlink()
    assert "earlier selection" in str(outdated(result, tmp_path))

"""After a complete run: settings that return, and prompts that have become too long."""

import shutil
from pathlib import Path

import pytest
from conftest import Workspace

PROMPTS = "results/demo/prompts/good_prompts.jsonl"


def test_results_of_other_settings_are_stale_when_the_settings_return(workspace: Workspace) -> None:
    """A job on a cluster that finishes unwatched leaves the metadata of the run before it."""
    first, other = (PROMPTS, "--config", "seed=1"), (PROMPTS, "--config", "seed=2")
    metadata, aside = workspace.folder / ".snakemake" / "metadata", workspace.folder / "aside"
    workspace.require(*first)
    before = (workspace.folder / PROMPTS).read_bytes()
    shutil.copytree(metadata, aside)
    workspace.require(*other)
    assert (workspace.folder / PROMPTS).read_bytes() != before
    shutil.rmtree(metadata)
    aside.rename(metadata)
    workspace.require(*first)
    assert (workspace.folder / PROMPTS).read_bytes() == before


@pytest.mark.slow
def test_a_prompt_that_has_become_too_long_stops_before_the_search(
    demo_run: tuple[Workspace, str], tmp_path: Path
) -> None:
    """The phase that checks lengths first does not depend on the held-out prompts."""
    workspace = Workspace(Path(shutil.copytree(demo_run[0].folder, tmp_path / "workspace")))
    (workspace.folder / "long.txt").write_text("Who are you?\n" + "word " * 20_000 + "\n")
    done = workspace.run("--config", "bad_holdout_prompts=long.txt", "max_weight=1.4")
    assert done.returncode == 1
    assert "row 2 of bad_holdout_prompts ('word word" in done.stdout
    assert "Trial 0" not in done.stdout
    assert (workspace.results / "demo" / "study.db").is_file()

"""What the README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Workspace

from heretic.prompts.sources import load_prompts
from heretic.settings.prompt_sources import PromptSource

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_example_runs(demo_workspace: Workspace) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 1
    for side in ("good", "bad"):
        prompts = load_prompts(PromptSource(dataset="demo", split=f"{side}_prompts"), seed=0)
        text = "".join(f"{prompt.text}\n" for prompt in prompts)
        (demo_workspace.folder / f"{side}.txt").write_text(text)
    check = "\nassert not editor.model.network.state_dict()['lm_head.weight'].isnan().any()"
    done = subprocess.run(
        [sys.executable, "-c", blocks[0] + check],
        cwd=demo_workspace.folder,
        env=demo_workspace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_names_its_commands_and_its_files() -> None:
    assert "pip install -c envs/constraints.txt -e . && snakemake --cores 1" in README
    assert "pip install -c envs/constraints.txt -e '.[test]' && pytest" in README
    assert "@@" not in README
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    mentioned = re.findall(r"(?:config|profiles)/[\w./-]+\.(?:yaml|md)", README)
    for name in {*linked, *mentioned}:
        assert (REPOSITORY / Path(name)).exists(), name

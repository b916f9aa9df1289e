"""The upload rule against a hub on this machine: what was saved arrives, once."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Workspace
from services.hub_server import HubServer

from heretic.artifacts import read_json

LOAD = """
from transformers import AutoModelForCausalLM
print(sum(p.numel() for p in AutoModelForCausalLM.from_pretrained("tester/demo").parameters()))
"""


@pytest.mark.slow
def test_the_saved_model_is_uploaded_once_and_loads_from_the_hub(
    demo_run: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = demo_run[0]
    target = ("results/demo/upload.json", "--config", "upload_to=tester/demo")
    with HubServer() as hub:
        variables = hub.environment(tmp_path / "home")
        workspace.require(*target, **variables)
        receipt = read_json(workspace.results / "demo" / "upload.json")
        saved = read_json(workspace.results / "demo" / "model.manifest.json")["files"]
        assert {file["path"]: file["sha256"] for file in receipt["files"]} == {
            path: facts["sha256"] for path, facts in saved.items()
        }
        assert receipt["private"] is True
        assert "Nothing to be done" in workspace.require(*target, **variables)
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD],
            env=workspace.environment(**variables),
            capture_output=True,
            text=True,
            check=True,
        )
    assert int(loaded.stdout) > 500_000

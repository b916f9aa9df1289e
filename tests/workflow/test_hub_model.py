"""A model of a hub in the workflow: one commit for all jobs of a run, and stale when it moves."""

import json
import threading
import time
from pathlib import Path

import pytest
from conftest import Workspace
from safetensors import safe_open
from services.hub_server import HubServer
from tiny_models import CHAT_TEMPLATE, save_tiny_model

from heretic.artifacts import read_json
from heretic.settings.schema import Settings

TARGET = "results/mine/residuals/good_prompts.safetensors"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def own_prompts(folder: Path) -> list[str]:
    given = []
    for name in Settings.required_sets():
        for part in "ab":
            (folder / f"{name}-{part}.txt").write_text(f"{name} {part} one\n{name} {part} two\n")
        given.append(f'{name}=["{name}-a.txt", "{name}-b.txt"]')
    return given


def settings_in(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as tensors:
        settings: dict[str, object] = json.loads(tensors.metadata()["provenance"])["settings"]
    return settings


@pytest.mark.slow
@pytest.mark.heavy
def test_all_jobs_of_a_run_use_the_commit_of_its_start(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    template = workspace.folder / "mine.jinja"
    template.write_text(CHAT_TEMPLATE)
    command = [
        TARGET, "--config", "model=owner/tiny", "run_name=mine", "device=cpu",
        "chat_template=mine.jinja", *own_prompts(workspace.folder),
    ]  # fmt: skip
    bundle = workspace.results / "mine" / "prompts" / "bundle.json"
    with HubServer() as hub:
        variables = hub.environment(other / "home")
        first = hub.add(
            "model",
            "owner/tiny",
            files_of(save_tiny_model(other / "one", max_position_embeddings=512)),
        )
        moved = files_of(save_tiny_model(other / "two", seed=1, max_position_embeddings=512))

        def move_the_branch() -> None:
            while not bundle.exists():
                time.sleep(0.02)
            hub.add("model", "owner/tiny", moved)

        mover = threading.Thread(target=move_the_branch, daemon=True)
        mover.start()
        workspace.require(*command, **variables)
        mover.join(timeout=10)
        assert not mover.is_alive()
        latest = hub.repos["model", "owner/tiny"].commits[-1][0]
        assert latest != first
        found = settings_in(workspace.folder / TARGET)
        assert found["model_revision"] == first
        assert found["chat_template"] == CHAT_TEMPLATE
        assert (
            found["response_prefix"]
            == read_json(bundle.parents[1] / "chat.json")["response_prefix"]
        )
        assert hub.asked(f"{first}/model.safetensors")
        assert not hub.asked(f"{latest}/model.safetensors")
        fingerprint = read_json(bundle.parent / "good_prompts.fingerprint.json")
        assert fingerprint["count"] == 4
        assert [s["source"]["dataset"] for s in fingerprint["sources"]] == [
            "good_prompts-a.txt",
            "good_prompts-b.txt",
        ]

        # A new run takes the branch where it is now.
        assert "find_response_prefix" in workspace.require("-n", *command, **variables)
        pinned = [*command, f"model_revision={first}"]
        assert "Nothing to be done" in workspace.require(*pinned, **variables)
        (workspace.folder / "good_prompts-b.txt").write_text("Another one\n")
        assert "Loading good_prompts" in workspace.require("-n", *pinned, **variables)
        template.write_text(CHAT_TEMPLATE + " ")
        assert "find_response_prefix" in workspace.require("-n", *pinned, **variables)

"""The data type of a run is decided once, by its prompts."""

from pathlib import Path

import pytest
from conftest import Workspace
from tiny_models import save_overflowing_model

from heretic.artifacts import read_json
from heretic.settings.schema import Settings

RESIDUALS = "results/overflow/residuals/good_prompts.safetensors"


@pytest.mark.heavy
def test_a_held_out_prompt_decides_for_all_phases(workspace: Workspace, tmp_path: Path) -> None:
    model = save_overflowing_model(tmp_path / "model")
    options = ("run_name=overflow", "max_response_length=20", "response_prefix=So")
    config = [f"model={model}", *options]
    for name in Settings.required_sets():
        path = tmp_path / f"{name}.txt"
        path.write_text(f"{name} one\n{name} two\n")
        config.append(f"{name}={path}")
    (tmp_path / "bad_holdout_prompts.txt").write_text("One\nWho is Zoe?\n")
    log = workspace.require(RESIDUALS, "--config", *config)
    assert read_json(workspace.results / "overflow/chat.json")["dtype"] == "bfloat16"
    assert "dtype=auto: bfloat16, after float16, gives finite logits" in log
    # To find it, and to extract the residuals, whose prompts do not overflow.
    assert log.count("bfloat16 on cpu") == 2

"""Residuals as artifacts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_models import D_MODEL, LAYERS, PROMPTS, tiny_model

from heretic.artifacts import read_tensors, sha256_of
from heretic.prompts.prompt_sets import write_prompts
from heretic.residual_files import write_residuals
from heretic.residuals import get_residuals_batched

SETTINGS: dict[str, Any] = {"positions": "last", "winsorize_quantile": 1.0, "dtype": "auto"}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "some_prompts.jsonl"
    write_prompts(path, PROMPTS, {})
    return path


def test_states_are_written_with_what_explains_them(prompts: Path, tmp_path: Path) -> None:
    model, target = tiny_model(), tmp_path / "out" / "some.safetensors"

    write_residuals(model, prompts, target, SETTINGS)

    tensors = read_tensors(target)
    assert tensors.keys() == {"residuals"}
    assert tensors["residuals"].equal(get_residuals_batched(model, PROMPTS))
    with safe_open(target, framework="pt") as file:
        facts = json.loads(file.metadata()["provenance"])
    assert facts["settings"] == SETTINGS
    assert facts["inputs"] == {"prompts": sha256_of(prompts)}


def test_settings_are_followed(prompts: Path, tmp_path: Path) -> None:
    target = tmp_path / "some.safetensors"
    model, how = tiny_model(), {**SETTINGS, "positions": "all", "winsorize_quantile": 0.9}

    write_residuals(model, prompts, target, how)

    expected = get_residuals_batched(model, PROMPTS, positions="all", winsorize_quantile=0.9)
    assert read_tensors(target)["residuals"].equal(expected)


@pytest.mark.parametrize(("positions", "axes"), [("last", ()), ("all", (2,))])
def test_a_mean_stands_under_another_name(
    prompts: Path, tmp_path: Path, positions: str, axes: tuple[int, ...]
) -> None:
    target = tmp_path / "some.safetensors"

    write_residuals(
        tiny_model(), prompts, target, {**SETTINGS, "positions": positions}, mean_only=True
    )

    tensors = read_tensors(target)
    assert tensors.keys() == {"mean"}
    assert tensors["mean"].shape == (*axes, LAYERS + 1, D_MODEL)
    assert tensors["mean"].dtype == torch.float64


@pytest.mark.parametrize("mean_only", [False, True])
def test_work_that_fails_midway_leaves_no_file(
    prompts: Path, tmp_path: Path, mean_only: bool
) -> None:
    model, target = tiny_model(batch_size=2), tmp_path / "out" / "some.safetensors"
    model.get_layers()[1].register_forward_pre_hook(failing_from_call(2))

    with pytest.raises(RuntimeError, match="a fault of the test"):
        write_residuals(model, prompts, target, SETTINGS, mean_only=mean_only)

    assert not target.parent.exists() or not list(target.parent.iterdir())


def failing_from_call(number: int) -> Callable[..., None]:
    """A hook that fails at its `number`-th call."""
    calls: list[object] = []

    def hook(*_: object) -> None:
        calls.append(None)
        if len(calls) >= number:
            raise RuntimeError("a fault of the test")

    return hook

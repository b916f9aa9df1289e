"""Residuals as artifacts: one file per prompt set, with its provenance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heretic.artifacts import provenance, write_tensors
from heretic.model.loading import Model
from heretic.prompts.prompt_sets import read_prompts
from heretic.residuals import get_residual_means, get_residuals_batched


def write_residuals(
    model: Model,
    prompts: Path,
    target: Path,
    settings: Mapping[str, Any],
    *,
    mean_only: bool = False,
) -> None:
    """Read the states of one prompt set and write them, completely or not at all.

    Args:
        model: model with the response prefix of the run.
        prompts: the set, as written by `write_prompts`.
        target: safetensors file with the tensor `residuals`, float32 [n_prompts, n_layers + 1,
            d_model], or [n_prompts, P, n_layers + 1, d_model] if `positions` is `all`.
        settings: settings on which the states depend: `positions` and `winsorize_quantile` are
            applied, all are recorded.
        mean_only: write `mean` instead, float64 without the first axis, and never store the states.

    Raises:
        PromptError: the set is missing or damaged.
        ModelLoadError: a single prompt runs out of memory.
        HereticError: the disk is full.
    """
    how = {name: settings[name] for name in ("positions", "winsorize_quantile")}
    texts, task = read_prompts(prompts), f"Residuals of {prompts.stem}"
    if mean_only:
        tensors = {"mean": get_residual_means(model, texts, task, **how)}
    else:
        tensors = {"residuals": get_residuals_batched(model, texts, task, **how)}
    write_tensors(target, tensors, provenance(settings, {"prompts": prompts}))

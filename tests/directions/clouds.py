"""Residuals made by hand: clouds of points whose differences are known."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from heretic.directions import ExtractionOptions, ResidualSets
from heretic.settings.schema import Settings


def options_of(**changes: Any) -> ExtractionOptions:
    """The default options with changes."""
    return replace(ExtractionOptions.from_settings(Settings().model_dump()), **changes)


def cloud(n: int, layers: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """[n, layers, d] float64, with more variance in the first components."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, layers, d, dtype=torch.float64, generator=generator)
    return points * torch.linspace(2, 0.5, d) + shift


def states(n: int, seed: int, shift: float = 0.0, layers: int = 4, d: int = 12) -> Tensor:
    """Residuals [n, layers + 1, d] whose first state is the same for all prompts.

    Chat templates make the embeddings so. `shift` moves the first component of all others.
    """
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(n, layers + 1, d, generator=generator) + 1
    found[..., 0] += shift
    found[:, 0] = 0.5
    return found


def sets_of(**changes: Any) -> ResidualSets:
    """Good and bad prompts that differ along the first component, and held-out ones of each."""
    known = {
        "good": states(20, 0),
        "bad": states(15, 1, shift=4.0),
        "held_out_good": states(18, 2),
        "held_out_bad": states(17, 3, shift=4.0),
    }
    return ResidualSets(**{**known, **changes})

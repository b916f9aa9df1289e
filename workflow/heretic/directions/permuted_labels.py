"""Directions of prompts with shuffled labels, as a control of a method."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heretic.artifacts import read_tensors
from heretic.console import log
from heretic.directions.diagnostics import CPU, directions_of
from heretic.directions.extract import protect
from heretic.directions.options import ExtractionOptions
from heretic.directions.separation import generator
from heretic.directions.sets import ResidualSets
from heretic.errors import DirectionError
from heretic.model.loading import choose_device

ATTEMPTS = 10


def shuffled_label_directions(
    sets: ResidualSets, options: ExtractionOptions, position: int, device: torch.device = CPU
) -> Tensor | None:
    """Return the result of `extract_directions` for randomly labeled prompts.

    States of good and bad prompts are pooled and randomly redistributed, with unchanged sizes of
    both sides and the same share of truly bad prompts in each; method, number of directions and
    protection are unchanged. Without equal shares, the sides would differ by chance in their number
    of bad prompts, so that a difference of means would have a component along the very direction it
    is a control for. If a layer has no direction, as may happen with strict protection, the next
    redistribution of the seed is used.

    Args:
        sets: residuals of all prompt sets.
        options: options of the real directions.
        position: position of the real directions, counted from the end of the prompt.
        device: device of the computation.

    Returns:
        Orthonormal rows float32 [n_layers + 1, k, d_model]; None if all `ATTEMPTS` redistributions
        failed.
    """
    sets = sets.at(position)
    for attempt in range(ATTEMPTS):
        split = _stratified_split(sets, generator(options.seed, f"shuffled labels {attempt}"))
        try:
            found = directions_of(split.bad, split.good, options, device)
            return protect(found, split, options, device).units.float()
        except DirectionError as error:
            log.info("Reshuffling labels: %s", error)
    log.warning(
        "Skipped the shuffled-labels control: %d shuffles left a layer without a direction; to "
        "enable it, protect less, or lower min_remaining_norm or n_directions",
        ATTEMPTS,
    )
    return None


def control_directions(
    residuals: Mapping[str, Path],
    settings: Mapping[str, Any],
    directions: Mapping[str, Tensor],
    device: str,
) -> Tensor | None:
    """Return `shuffled_label_directions` of the residuals in files, as for the real directions.

    Args:
        residuals: files of the residuals, by prompt set.
        settings: settings of the real directions.
        directions: tensors of the real directions.
        device: device of the computation, as in the settings.
    """
    sets = ResidualSets.from_tensors({name: read_tensors(path) for name, path in residuals.items()})
    options, position = ExtractionOptions.from_settings(settings), int(directions["position"])
    return shuffled_label_directions(sets, options, position, choose_device(device))


def _stratified_split(sets: ResidualSets, shuffle: torch.Generator) -> ResidualSets:
    """Redistribute both sides with unchanged sizes and the same share of truly bad prompts."""
    n_bad, n_good = len(sets.bad), len(sets.good)
    bad, good = (torch.randperm(count, generator=shuffle) for count in (n_bad, n_good))
    stay = round(n_bad * n_bad / (n_bad + n_good))
    moved = n_bad - stay
    return replace(
        sets,
        bad=torch.cat([sets.bad[bad[:stay]], sets.good[good[:moved]]]),
        good=torch.cat([sets.bad[bad[stay:]], sets.good[good[moved:]]]),
    )

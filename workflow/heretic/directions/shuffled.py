"""Directions of prompts with shuffled labels, as a control of a method."""

from dataclasses import replace

import torch
from torch import Tensor

from heretic.console import log
from heretic.directions.chance import generator
from heretic.directions.contrast import CPU, directions_of
from heretic.directions.extract import protect
from heretic.directions.options import ExtractionOptions
from heretic.directions.sets import ResidualSets
from heretic.errors import DirectionError

ATTEMPTS = 10


def shuffled_label_directions(
    sets: ResidualSets, options: ExtractionOptions, position: int, device: torch.device = CPU
) -> Tensor | None:
    """Return the result of `extract_directions` for randomly labeled prompts.

    States of good and bad prompts are pooled and dealt out at random, as many to each side as
    before and each with its share of truly bad ones; method, number and protection stay. Without
    equal shares the sides differ by chance in how many bad prompts they hold, so that a difference
    of means lies along the very direction it is a control for. A deal that leaves a layer without
    a direction, as may happen where protection is strict, is replaced by the next one of the seed.

    Args:
        sets: residuals of all prompt sets.
        options: as the real directions were found.
        position: of the real directions, counted from the end of the prompt.
        device: where to compute.

    Returns:
        Orthonormal rows float32 [n_layers + 1, k, d_model]; None if `ATTEMPTS` deals gave none.
    """
    sets = sets.at(position)
    for attempt in range(ATTEMPTS):
        dealt = _deal(sets, generator(options.seed, f"shuffled labels {attempt}"))
        try:
            found = directions_of(dealt.bad, dealt.good, options, device)
            return protect(found, dealt, options, device).units.float()
        except DirectionError as error:
            log.info("Reshuffling labels: %s", error)
    log.warning(
        "Skipped the shuffled-labels control: %d shuffles left a layer without a direction; to "
        "enable it, protect less, or lower min_remaining_norm or n_directions",
        ATTEMPTS,
    )
    return None


def _deal(sets: ResidualSets, shuffle: torch.Generator) -> ResidualSets:
    """Deal both sides again, with their sizes unchanged and the same share of truly bad prompts."""
    n_bad, n_good = len(sets.bad), len(sets.good)
    bad, good = (torch.randperm(count, generator=shuffle) for count in (n_bad, n_good))
    stay = round(n_bad * n_bad / (n_bad + n_good))
    moved = n_bad - stay
    return replace(
        sets,
        bad=torch.cat([sets.bad[bad[:stay]], sets.good[good[:moved]]]),
        good=torch.cat([sets.bad[bad[stay:]], sets.good[good[moved:]]]),
    )

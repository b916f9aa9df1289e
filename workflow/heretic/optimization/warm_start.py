"""Warm-start trials of a search: edits known from elsewhere.

Warm starts determine which edits are tried, not how trials are scored: a study continues with other
ones, or with its first ones. The next trial is always the first warm start that is missing from the
study, so an interrupted search tries the same trials as an uninterrupted one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from heretic.console import log
from heretic.errors import StudyError
from heretic.optimization.conversion import sampled_parameters
from heretic.optimization.known_edits import KnownEdit
from heretic.optimization.search_space import SearchSpace

Sampled = Mapping[str, Any]


def warm_starts(
    edits: Sequence[KnownEdit], space: SearchSpace, most: int, *, required: bool
) -> list[Sampled]:
    """Return the parameters of the warm-start trials without duplicates.

    Args:
        edits: known edits, in the order in which to try them.
        space: search space of this search.
        most: largest number of warm starts, so that random trials remain for the sampler to learn
            from.
        required: whether the user requested these edits.

    Raises:
        StudyError: the edits are required, and this search can try none of them.
    """
    found: list[Sampled] = []
    complaints = []
    for edit in edits:
        try:
            sampled = sampled_parameters(edit, space)
        except StudyError as error:
            complaints.append(error)
            log.info("Skipped warm-start trial: %s", error)
            continue
        if sampled not in found:
            found.append(sampled)
    if required and complaints and not found:
        raise complaints[0]
    if len(found) > most:
        log.info("Using %d warm-start trials out of %d (n_startup_trials)", most, len(found))
    if found:
        log.info("Using %d warm-start trials", min(most, len(found)))
    return found[:most]


def next_warm_start(starts: Sequence[Sampled], tried: Sequence[Sampled]) -> Sampled | None:
    """Return the first warm start not yet tried by the study; None if all were tried.

    Args:
        starts: warm starts of the search.
        tried: sampled parameters of the study's trials, finished and in flight.
    """
    return next((s for s in starts if not any(s.items() <= t.items() for t in tried)), None)

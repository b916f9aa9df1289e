"""The first trials of a search: edits that are known from elsewhere.

They say what is tried, not what a trial scores: a study with other ones, or with some for the first
time, goes on. The next trial is always the first of them that the study does not have yet, so that
an interrupted search tries the same as one that ran through.
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
    """Parameters of the first trials, each once.

    Args:
        edits: the first are tried first.
        space: of this search.
        most: how many there may be; the random trials that are left teach the sampler the rest.
        required: whether the user asked for these edits.

    Raises:
        StudyError: they are required, and this search can try none of them.
    """
    found: list[Sampled] = []
    complaints = []
    for edit in edits:
        try:
            sampled = sampled_parameters(edit, space)
        except StudyError as error:
            complaints.append(error)
            log.info("Not among the first trials: %s", error)
            continue
        if sampled not in found:
            found.append(sampled)
    if required and complaints and not found:
        raise complaints[0]
    if len(found) > most:
        log.info("Of %d known edits the first %d are tried: n_startup_trials", len(found), most)
    if found:
        log.info("The first trials are %d known edits", min(most, len(found)))
    return found[:most]


def next_warm_start(starts: Sequence[Sampled], tried: Sequence[Sampled]) -> Sampled | None:
    """The first that no trial of the study is; None if all are tried.

    Args:
        starts: of the search.
        tried: what the study's trials chose, finished and in flight.
    """
    return next((s for s in starts if not any(s.items() <= t.items() for t in tried)), None)

"""Minimum prompt counts of later phases, checked before a model is loaded."""

from collections.abc import Mapping
from typing import Any

from heretic.errors import PromptError

FEWEST = 2
FEWEST_FOR_PACMAP = 10


def require_enough(counts: Mapping[str, int], settings: Mapping[str, Any]) -> None:
    """Reject prompt sets that are too small for the settings.

    Args:
        counts: number of prompts of each set in use.
        settings: values of `n_directions`, `n_sacred_directions` and `projection`.

    Raises:
        PromptError: a set is too small; the message names it and the setting to change.
    """
    for name in (
        "good_prompts",
        "bad_prompts",
        "good_evaluation_prompts",
        "bad_evaluation_prompts",
    ):
        if counts[name] < FEWEST:
            raise PromptError(
                f"{name} has a single prompt, so directions cannot be computed; use at least "
                f"{FEWEST} prompts, preferably 100"
            )
    pairs = min(counts["good_prompts"], counts["bad_prompts"])
    _require(pairs, settings["n_directions"], "n_directions", "good_prompts and bad_prompts")
    if "sacred_prompts" in counts:
        plain = "unhelpfulness_prompts" if "unhelpfulness_prompts" in counts else "good_prompts"
        pairs = min(counts["sacred_prompts"], counts[plain])
        wanted = settings["n_sacred_directions"]
        _require(pairs, wanted, "n_sacred_directions", f"sacred_prompts and {plain}")
    drawn = counts["good_prompts"] + counts["bad_prompts"]
    if settings["projection"] == "pacmap" and drawn < FEWEST_FOR_PACMAP:
        raise PromptError(
            f"projection=pacmap needs {FEWEST_FOR_PACMAP} good and bad prompts, but there are "
            f"{drawn}; use projection=pca"
        )


def _require(found: int, wanted: int, setting: str, sets: str) -> None:
    if wanted > found:
        raise PromptError(
            f"{setting}={wanted} needs as many prompts in each of {sets}, but the smaller has "
            f"{found}; lower it or provide more prompts"
        )

"""Checks of prompt sets: no overlap of sides or of training and scoring, and enough prompts."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from heretic.errors import PromptError
from heretic.prompts.prompt import Prompt

SCORED = ("evaluation", "holdout")
EXAMPLES = 3
EXAMPLE_LENGTH = 60
FEWEST = 2
FEWEST_FOR_PACMAP = 10


def check_disjoint(sets: Mapping[str, Sequence[Prompt]]) -> None:
    """Reject overlaps between the prompt sets of a run.

    Good and bad prompts must differ, and a prompt of an evaluation or held-out set must not occur
    in any other set. Case and white space are ignored. Plain texts and protected abilities may
    share prompts with the sets from which the directions are computed.

    Args:
        sets: prompts by set name, such as `bad_prompts`; sets may be missing.

    Raises:
        PromptError: two sets share prompts; the message gives up to three examples.
    """
    known = {name: _by_identity(prompts) for name, prompts in sets.items()}
    for one, other in combinations(known, 2):
        shared = [text for key, text in known[one].items() if key in known[other]]
        if shared and _must_differ(one, other):
            raise PromptError(_complaint(one, other, shared))


def _must_differ(one: str, other: str) -> bool:
    if any(part in name for part in SCORED for name in (one, other)):
        return True
    return {one, other} == {"good_prompts", "bad_prompts"}


def identity(prompt: Prompt) -> tuple[str, str]:
    """Return the identity of a prompt for comparisons, ignoring case and white space."""
    return _plain(prompt.system or ""), _plain(prompt.text)


def _by_identity(prompts: Sequence[Prompt]) -> dict[tuple[str, str], str]:
    return {identity(prompt): prompt.text for prompt in prompts}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _complaint(one: str, other: str, shared: Sequence[str]) -> str:
    examples = ", ".join(f'"{_shortened(text)}"' for text in shared[:EXAMPLES])
    more = ", …" if len(shared) > EXAMPLES else ""
    count = "1 prompt" if len(shared) == 1 else f"{len(shared)} prompts"
    return (
        f"{one} and {other} share {count} ({examples}{more}); "
        "choose other datasets, splits or slices so that no prompt is in both"
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_LENGTH else line[: EXAMPLE_LENGTH - 1] + "…"


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

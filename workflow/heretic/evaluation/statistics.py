"""Paired tests of two models on the same prompts, free of the sampling error over prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest


def mcnemar(original: Sequence[bool], edited: Sequence[bool]) -> dict[str, Any]:
    """Compute McNemar's exact test (McNemar 1947), which counts only discordant prompts.

    If the edit had no effect, each of these would be equally likely to go either way, so the
    p-value is that of the two-sided binomial test with probability one half.

    Args:
        original, edited: outcome of each prompt, in the same order.

    Returns:
        `only_original` and `only_edited`, the numbers of prompts with the outcome for one model
        only, and `p_value`, which is 1 if the models never differ.
    """
    pairs = list(zip(original, edited, strict=True))
    before, after = pairs.count((True, False)), pairs.count((False, True))
    different = before + after
    p_value = float(binomtest(before, different).pvalue) if different else 1.0
    return {"only_original": before, "only_edited": after, "p_value": p_value}


def paired_tests(
    original: Mapping[str, Sequence[bool]], edited: Mapping[str, Sequence[bool]]
) -> dict[str, dict[str, Any]]:
    """Return `mcnemar` for each measure available for both models, by name."""
    return {name: mcnemar(original[name], edited[name]) for name in original if name in edited}

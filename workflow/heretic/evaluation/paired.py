"""Whether two models differ on the same prompts, rather than by the luck of which were drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest


def mcnemar(original: Sequence[bool], edited: Sequence[bool]) -> dict[str, Any]:
    """McNemar's test, exact (McNemar 1947): only prompts on which the two differ count.

    Had the edit no effect, each of these would go either way like a fair coin, so that the p-value
    is that of the two-sided binomial test of one half.

    Args:
        original, edited: what was found of each prompt, in the same order.

    Returns:
        `only_original` and `only_edited`, the prompts of which it was found of one model alone,
        and `p_value`, which is 1 where the two never differ.
    """
    pairs = list(zip(original, edited, strict=True))
    before, after = pairs.count((True, False)), pairs.count((False, True))
    different = before + after
    p_value = float(binomtest(before, different).pvalue) if different else 1.0
    return {"only_original": before, "only_edited": after, "p_value": p_value}


def paired_tests(
    original: Mapping[str, Sequence[bool]], edited: Mapping[str, Sequence[bool]]
) -> dict[str, dict[str, Any]]:
    """`mcnemar` of each measure that both models have, by its name."""
    return {name: mcnemar(original[name], edited[name]) for name in original if name in edited}

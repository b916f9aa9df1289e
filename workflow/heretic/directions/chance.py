"""Chance level of the separation by directions."""

import zlib

import torch
from torch import Tensor

from heretic.directions.sets import ResidualSets

CONFIDENCE = 0.95
RELABELLINGS = 200


def chance_band(sets: ResidualSets, seed: int) -> tuple[float, float]:
    """Return the band of AUROC that directions of relabeled prompts stay within, 19 times of 20.

    The directions are differences of means. The labels of all prompts are shuffled, both for
    extraction and for evaluation, and the largest and the smallest AUROC of any layer and position
    are recorded. The band thus accounts for examining many layers, which resemble each other, and
    for choosing the best of several positions. The embeddings, which no edit uses, are excluded.

    Returns:
        The 2.5% quantile of the smallest and the 97.5% quantile of the largest AUROC.
    """
    shuffle = generator(seed, "chance")
    contrasts = torch.stack(
        [_mean_contrast(len(sets.bad), len(sets.good), shuffle) for _ in range(RELABELLINGS)]
    )
    held_out = len(sets.held_out_bad) + len(sets.held_out_good)
    orders = [torch.randperm(held_out, generator=shuffle) for _ in range(RELABELLINGS)]
    called_bad = torch.stack(orders, 1) < len(sets.held_out_bad)
    smallest, largest = torch.ones(RELABELLINGS), torch.zeros(RELABELLINGS)
    for position in range(-sets.n_positions, 0):
        states = sets.at(position)
        for layer in range(1, states.good.shape[1]):
            known = torch.cat([states.bad[:, layer], states.good[:, layer]]).float()
            judged = torch.cat([states.held_out_bad[:, layer], states.held_out_good[:, layer]])
            # Centered on their mean, or float32 would lose small differences of large states.
            centre = known.mean(0)
            directions = contrasts @ (known - centre)
            aurocs = _auroc_of_ranks((judged.float() - centre) @ directions.T, called_bad)
            smallest, largest = smallest.minimum(aurocs), largest.maximum(aurocs)
    tail = (1 - CONFIDENCE) / 2
    return float(smallest.quantile(tail)), float(largest.quantile(1 - tail))


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a random generator for one purpose, independent of others with the same seed."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}:{purpose}".encode()))


def _mean_contrast(n_bad: int, n_good: int, shuffle: torch.Generator) -> Tensor:
    """Return the weights [n_bad + n_good] that take the difference of means of shuffled labels."""
    order = torch.randperm(n_bad + n_good, generator=shuffle)
    weights = torch.full((n_bad + n_good,), -1 / n_good)
    weights[order[:n_bad]] = 1 / n_bad
    return weights


def _auroc_of_ranks(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the AUROC of each column of `scores` [n, columns] by the Mann-Whitney statistic.

    Ties are ranked by position, which is unrelated to shuffled labels.
    """
    ranks = scores.argsort(0).argsort(0).double() + 1
    count = positive.sum(0)
    above = (ranks * positive).sum(0) - count * (count + 1) / 2
    return (above / (count * (len(scores) - count))).float()

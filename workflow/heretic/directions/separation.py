"""Separation of held-out bad and good prompts by directions, compared with chance."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from heretic.ablation.linalg import normalize
from heretic.console import log
from heretic.directions.sets import ResidualSets

CONFIDENCE = 0.95
RELABELLINGS = 200


def permutation_band(sets: ResidualSets, seed: int) -> tuple[float, float]:
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


@dataclass(frozen=True)
class Separation:
    """Separation by state on held-out prompts, index 0 the embeddings.

    Attributes:
        auroc: probability that a bad prompt is further along the direction than a good one.
        cohens_d: distance of the means along the direction, in pooled standard deviations.
        control_auroc: AUROC of a direction from relabeled prompts, on relabeled prompts.
        chance: AUROC band of relabeled prompts, see `permutation_band`.
    """

    auroc: tuple[float, ...]
    cohens_d: tuple[float, ...]
    control_auroc: tuple[float, ...]
    chance: tuple[float, float]

    @property
    def discriminative(self) -> Tensor:
        """Return whether each state separates better than chance, uint8 [n_layers + 1]."""
        return torch.tensor([value > self.chance[1] for value in self.auroc], dtype=torch.uint8)


def evaluate_separation(
    sets: ResidualSets, directions: Tensor, control: Tensor, chance: tuple[float, float], seed: int
) -> Separation:
    """Evaluate the projections of held-out prompts onto directions extracted from other prompts.

    Args:
        sets: residuals at one position.
        directions: unit rows [n_layers + 1, d_model].
        control: directions of relabeled prompts, in the same form.
        chance: see `permutation_band`.
        seed: seed for relabeling the held-out prompts. Their true labels would be unsuitable: any
            direction tends to have a component along the largest existing difference, with either
            sign.
    """
    bad, good = sets.held_out_bad, sets.held_out_good
    scores = [_along(bad, directions), _along(good, directions)]
    both = torch.cat([_along(bad, control), _along(good, control)])
    order = torch.randperm(len(both), generator=generator(seed, "held-out control"))
    return Separation(
        auroc=_auroc(*scores),
        cohens_d=_cohens_d(*scores),
        control_auroc=_auroc(*torch.split(both[order], [len(bad), len(good)])),
        chance=chance,
    )


def log_separation(rows: Sequence[Mapping[str, Any]]) -> None:
    """Log where held-out prompts are separated best, and where not better than chance.

    Args:
        rows: rows of `geometry_rows`, one per state.
    """
    best = max(rows, key=lambda row: (row["auroc"], row["cohens_d"]))
    log.info(
        "Separation of held-out prompts is best at state %d: AUROC %.3f (chance: up to %.3f)",
        best["layer"],
        best["auroc"],
        best["chance_high"],
    )
    weak = [row["layer"] - 1 for row in rows[1:] if not row["discriminative"]]
    if weak:
        log.warning("Not better than chance after layers %s", ", ".join(map(str, weak)))


def best_position(sets: ResidualSets) -> int:
    """Return the position, counted from the end, with the best separation by differences of means.

    The criterion is the largest AUROC of any layer on held-out prompts, then the largest Cohen's d;
    ties go to the later position (Arditi et al. 2024 choose among the same positions by the edit's
    effect).
    """
    found: list[tuple[tuple[float, float], int]] = []
    for position in range(-sets.n_positions, 0):
        states = sets.at(position)
        means = [known.mean(0, dtype=torch.float64) for known in (states.bad, states.good)]
        directions = normalize(means[0] - means[1])
        scores = [_along(held, directions) for held in (states.held_out_bad, states.held_out_good)]
        by_layer = zip(_auroc(*scores)[1:], _cohens_d(*scores)[1:], strict=True)
        key = max((round(auroc, 6), d) for auroc, d in by_layer)
        log.info("Position %d: AUROC %.3f, Cohen's d %.2f at best", position, *key)
        found.append((key, position))
    return max(found)[1]


def _along(states: Tensor, directions: Tensor) -> Tensor:
    """Return projections [n, layers] of [n, layers, d_model], in float64, one layer at a time."""
    layers = zip(states.unbind(1), directions.double(), strict=True)
    return torch.stack([layer.double() @ row for layer, row in layers], 1)


def _auroc(bad: Tensor, good: Tensor) -> tuple[float, ...]:
    labels = [1] * len(bad) + [0] * len(good)
    columns = torch.cat([bad, good]).T.numpy()
    return tuple(float(roc_auc_score(labels, column)) for column in columns)


def _cohens_d(bad: Tensor, good: Tensor) -> tuple[float, ...]:
    """Return Cohen's d of each layer; 0 if neither set varies."""
    squares = sum((scores - scores.mean(0)).square().sum(0) for scores in (bad, good))
    pooled = (torch.as_tensor(squares) / max(1, len(bad) + len(good) - 2)).sqrt()
    gap = bad.mean(0) - good.mean(0)
    return tuple(torch.where(pooled > 0, gap / pooled, 0.0).tolist())

"""Separation of held-out bad and good prompts by directions."""

from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from heretic.ablation.vectors import normalize
from heretic.console import log
from heretic.directions.chance import generator
from heretic.directions.sets import ResidualSets


@dataclass(frozen=True)
class Separation:
    """Separation by state on held-out prompts, index 0 the embeddings.

    Attributes:
        auroc: probability that a bad prompt is further along the direction than a good one.
        cohens_d: distance of the means along the direction, in pooled standard deviations.
        control_auroc: AUROC of a direction from relabeled prompts, on relabeled prompts.
        chance: AUROC band of relabeled prompts, see `chance_band`.
    """

    auroc: tuple[float, ...]
    cohens_d: tuple[float, ...]
    control_auroc: tuple[float, ...]
    chance: tuple[float, float]

    @property
    def discriminative(self) -> Tensor:
        """Return whether each state separates better than chance, uint8 [n_layers + 1]."""
        return torch.tensor([value > self.chance[1] for value in self.auroc], dtype=torch.uint8)


def judge(
    sets: ResidualSets, directions: Tensor, control: Tensor, chance: tuple[float, float], seed: int
) -> Separation:
    """Evaluate the projections of held-out prompts onto directions extracted from other prompts.

    Args:
        sets: residuals at one position.
        directions: unit rows [n_layers + 1, d_model].
        control: directions of relabeled prompts, in the same form.
        chance: see `chance_band`.
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

"""How well directions tell bad from good prompts that did not give them, and what chance gives."""

from dataclasses import dataclass
from statistics import NormalDist

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from heretic.ablation.vectors import normalize
from heretic.console import log
from heretic.directions.sets import ResidualSets

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Separation:
    """Separation by layer on held-out prompts, index 0 the embeddings.

    Attributes:
        auroc: how often a bad prompt lies further along the direction than a good one.
        cohens_d: distance of the means along the direction, in pooled standard deviations.
        control_auroc: the same for a direction from relabelled prompts, and relabelled prompts.
        chance: AUROC between which chance stays in all layers at once with 95% probability.
    """

    auroc: tuple[float, ...]
    cohens_d: tuple[float, ...]
    control_auroc: tuple[float, ...]
    chance: tuple[float, float]

    @property
    def discriminative(self) -> Tensor:
        """Whether each layer separates better than chance, uint8 [n_layers + 1]."""
        return torch.tensor([value > self.chance[1] for value in self.auroc], dtype=torch.uint8)


def judge(bad: Tensor, good: Tensor, directions: Tensor, control: Tensor, seed: int) -> Separation:
    """Project held-out prompts onto directions that come from other prompts.

    Args:
        bad, good: residuals [n, n_layers + 1, d_model] of held-out prompts.
        directions: unit rows [n_layers + 1, d_model].
        control: the same of relabelled prompts.
        seed: of the relabelling of these prompts. Their true labels would not do: a direction of
            any origin often lies along the largest difference there is, with either sign.
    """
    scores = [_along(bad, directions), _along(good, directions)]
    both = _along(torch.cat([bad, good]), control)
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.split(both[order], [len(bad), len(good)])
    return Separation(
        auroc=_auroc(*scores),
        cohens_d=_cohens_d(*scores),
        control_auroc=_auroc(*shuffled),
        chance=chance_band(len(bad), len(good), bad.shape[1] - 1),
    )


def chance_band(n_bad: int, n_good: int, n_layers: int) -> tuple[float, float]:
    """AUROC that prompts of one kind stay between in all layers, with 95% probability.

    The normal approximation of the Mann-Whitney statistic, whose standard deviation is
    sqrt((n_bad + n_good + 1) / (12 n_bad n_good)), with Bonferroni's correction for the layers.
    """
    deviation: float = ((n_bad + n_good + 1) / (12 * n_bad * n_good)) ** 0.5
    reach = deviation * NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / n_layers)
    return max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)


def best_position(sets: ResidualSets) -> int:
    """The position, counted from the end, whose difference of means separates best anywhere.

    By the largest AUROC of any layer on held-out prompts, then the largest Cohen's d; of equals,
    the later position (Arditi et al. 2024 choose among the same positions by the edit's effect).
    """
    found: list[tuple[tuple[float, float], int]] = []
    for position in range(-sets.n_positions, 0):
        states = sets.at(position)
        directions = normalize(
            states.bad.mean(0, dtype=torch.float64) - states.good.mean(0, dtype=torch.float64)
        )
        scores = [_along(held, directions) for held in (states.held_out_bad, states.held_out_good)]
        by_layer = zip(_auroc(*scores), _cohens_d(*scores), strict=True)
        key = max((round(auroc, 6), d) for auroc, d in by_layer)
        log.info("Position %d: AUROC %.3f, Cohen's d %.2f at best", position, *key)
        found.append((key, position))
    return max(found)[1]


def _along(states: Tensor, directions: Tensor) -> Tensor:
    """Projections [n, layers] of [n, layers, d_model], in float64."""
    return torch.einsum("nld,ld->nl", states.double(), directions.double())


def _auroc(bad: Tensor, good: Tensor) -> tuple[float, ...]:
    labels = [1] * len(bad) + [0] * len(good)
    columns = torch.cat([bad, good]).T.numpy()
    return tuple(float(roc_auc_score(labels, column)) for column in columns)


def _cohens_d(bad: Tensor, good: Tensor) -> tuple[float, ...]:
    """0 where neither set varies."""
    squares = sum((scores - scores.mean(0)).square().sum(0) for scores in (bad, good))
    pooled = (torch.as_tensor(squares) / max(1, len(bad) + len(good) - 2)).sqrt()
    gap = bad.mean(0) - good.mean(0)
    return tuple(torch.where(pooled > 0, gap / pooled, 0.0).tolist())

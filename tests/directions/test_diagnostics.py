"""What is known of directions beside themselves: agreement, stability, control, medians."""

import pytest
import torch
from clouds import cloud, options_of

from heretic.directions import directions_of
from heretic.directions.diagnostics import contrast, geometric_median, random_halves
from heretic.directions.options import METHODS


def test_the_directions_are_those_of_the_method_alone() -> None:
    bad, good = cloud(15, 2, 30, 0, shift=0.5), cloud(12, 2, 30, 1)
    options = options_of(direction_method="contrastive_pca", n_directions=2)
    assert contrast(bad, good, options).directions.equal(directions_of(bad, good, options))


def test_agreement_is_the_cosine_with_each_method() -> None:
    bad, good = cloud(15, 2, 30, 0, shift=0.5), cloud(12, 2, 30, 1)
    found = contrast(bad, good, options_of(direction_method="pca", n_directions=2))
    for number, name in enumerate(METHODS):
        other = directions_of(bad, good, options_of(direction_method=name))[:, 0]
        cosine = (found.directions[:, 0] * other).sum(-1)
        assert (found.agreement[:, number] - cosine).abs().max() < 1e-9
    assert found.agreement[:, METHODS.index("pca")].tolist() == [pytest.approx(1)] * 2


def test_a_strong_difference_is_stable_and_none_is_not() -> None:
    good = cloud(100, 1, 40, 1)
    strong = contrast(cloud(100, 1, 40, 0, shift=3.0), good, options_of())
    none = contrast(cloud(100, 1, 40, 0), good, options_of())
    assert float(strong.stability) > 0.98
    assert abs(float(none.stability)) < 0.5
    assert float(strong.probe_accuracy) > 0.95
    assert float(none.probe_accuracy) == pytest.approx(0.5, abs=0.15)
    assert float(strong.silhouette) > float(none.silhouette) + 0.2


def test_the_control_depends_on_the_seed_alone() -> None:
    bad, good = cloud(20, 1, 12, 0, shift=2.0), cloud(20, 1, 12, 1)
    once = contrast(bad, good, options_of(seed=4))
    torch.manual_seed(99)
    again, other = (contrast(bad, good, options_of(seed=seed)) for seed in (4, 5))
    assert again.control.equal(once.control)
    assert again.stability.equal(once.stability)
    assert not other.control.equal(once.control)
    assert other.directions.equal(once.directions)
    assert once.control.norm().item() == pytest.approx(1)
    # Relabelled, the sets no longer differ as they did.
    assert abs(float(once.control[0] @ once.directions[0, 0])) < 0.9


@pytest.mark.parametrize(("n_bad", "n_good"), [(9, 9), (9, 14), (15, 8), (2, 7), (3, 2)])
def test_halves_keep_pairs_together_and_hold_every_prompt(n_bad: int, n_good: int) -> None:
    halves = random_halves(n_bad, n_good, seed=0)
    for side, count in ((0, n_bad), (1, n_good)):
        together = torch.cat([half[side] for half in halves])
        assert sorted(together.tolist()) == list(range(count))
    pairs = set(range(min(n_bad, n_good)))
    for of_bad, of_good in halves:
        assert set(of_bad.tolist()) & pairs == set(of_good.tolist()) & pairs
        assert len(of_bad) > 0
        assert len(of_good) > 0


def test_the_axis_of_pairs_is_stable_where_only_pairs_show_it() -> None:
    # Topics differ far more than the two prompts of a topic do.
    topics = 20 * cloud(60, 1, 30, 5)
    bad, good = topics + cloud(60, 1, 30, 0, shift=1.5), topics + cloud(60, 1, 30, 1)
    found = contrast(bad, good, options_of(direction_method="pca"))
    assert float(found.stability) > 0.8


def test_two_prompts_a_set_are_enough_for_numbers() -> None:
    found = contrast(cloud(2, 2, 6, 0, shift=1.0), cloud(2, 2, 6, 1), options_of())
    for name, values in vars(found).items():
        assert values.isfinite().all(), name


def test_the_geometric_median_has_the_smallest_sum_of_distances() -> None:
    points = cloud(9, 2, 3, 0).transpose(0, 1)
    points[:, 0] += 50  # an outlier that moves the mean
    found = geometric_median(points)
    # There the unit vectors towards all points cancel.
    towards = points - found[:, None]
    pull = (towards / towards.norm(dim=-1, keepdim=True)).sum(1)
    assert pull.norm(dim=-1).max() < 1e-6
    assert (found - points.mean(1)).norm(dim=-1).min() > 1
    assert geometric_median(torch.ones(2, 4, 3)).tolist() == [[1.0] * 3] * 2

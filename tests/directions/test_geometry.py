"""The columns of geometry.csv, on clouds made by hand."""

import math
from typing import Any

import pytest
import torch
from clouds import options_of, sets_of, states

from heretic.directions import ResidualSets, extract_directions, geometry_rows


def rows_of(sets: ResidualSets, **options: Any) -> list[dict[str, Any]]:
    return geometry_rows(sets, extract_directions(sets, options_of(**options)))


def far(n: int, seed: int, shift: float) -> torch.Tensor:
    """Like `states`, about the origin."""
    return states(n, seed, shift=shift, layers=1) - 1


SETS = ResidualSets(far(50, 1, 0), far(60, 0, 12), far(20, 2, 0), far(20, 3, 12))


def test_separated_clouds() -> None:
    first, second = rows_of(SETS)
    assert second["auroc"] == 1.0
    assert second["cohens_d"] > 5
    assert second["discriminative"] == 1
    assert second["silhouette"] > 0.5
    assert second["explained_variance"] > 0.6
    assert second["direction_norm"] == pytest.approx(12.0, abs=1.0)
    assert second["cosine_bad_direction"] > 0.99
    assert second["median_cosine_bad_direction"] > 0.99
    assert second["stability"] > 0.99
    assert second["agreement_mean_difference"] == pytest.approx(1)
    assert all(second[f"agreement_{name}"] > 0.9 for name in ("contrastive_pca", "pca", "probe"))
    assert second["probe_accuracy"] == 1.0
    assert second["chance_low"] < second["control_auroc"] < second["chance_high"] < 0.8
    # States that cannot differ say nothing, rather than no number.
    assert (first["layer"], first["position"]) == (0, -1)
    assert first["auroc"] == 0.5
    assert first["discriminative"] == 0
    assert first["silhouette"] == first["explained_variance"] == first["direction_norm"] == 0.0
    assert first["cosine_good_direction"] == first["cohens_d"] == 0.0
    assert first["cosine_good_bad"] == pytest.approx(1.0)


def test_separation_is_that_of_prompts_that_gave_no_direction() -> None:
    # What sets these apart is nothing that other prompts share.
    alike = ResidualSets(far(8, 1, 0), far(8, 0, 0), far(60, 2, 0), far(60, 3, 0))
    row = rows_of(alike)[1]
    assert row["chance_low"] < row["auroc"] < row["chance_high"]
    assert row["discriminative"] == 0


def test_explained_variance_and_cosines_by_hand() -> None:
    # Four points: variance 4 along x, 1 along y.
    good = torch.tensor([[[0.0, 1.0]], [[0.0, -1.0]]]).expand(2, 2, 2)
    bad = torch.tensor([[[4.0, 1.0]], [[4.0, -1.0]]]).expand(2, 2, 2)
    row = rows_of(ResidualSets(good, bad, good, bad))[1]
    assert row["explained_variance"] == pytest.approx(4 / 5)
    assert row["direction_norm"] == row["bad_norm"] == pytest.approx(4.0)
    assert row["good_norm"] == 0.0
    assert row["cosine_bad_direction"] == pytest.approx(1.0)
    # Silhouette of each point: its own side is 2 away, the other side 4 and sqrt(20).
    other = (4 + math.sqrt(20)) / 2
    assert row["silhouette"] == pytest.approx((other - 2) / other)
    both = ResidualSets(good, bad, good, bad)
    row = rows_of(both, direction_method="pca", n_directions=2)[1]
    assert row["explained_variance"] == pytest.approx(1)


def test_angles_are_those_before_orthogonalisation() -> None:
    plain, sacred = states(30, 5), states(30, 6)
    plain[..., 1] -= 30
    sacred[..., 2] += 40
    sets = sets_of(unhelpfulness=plain, sacred=sacred)
    rows = rows_of(sets, orthogonalize_to_good=True)
    assert rows[0]["angle_refusal_helpfulness"] is None
    for row in rows[1:]:
        assert row["angle_refusal_helpfulness"] == pytest.approx(90, abs=12)
        assert row["angle_helpfulness_sacred"] == pytest.approx(53, abs=12)
        assert row["remaining_norm"] < 1
    without = rows_of(sets_of())[1]
    assert without["angle_refusal_helpfulness"] is without["angle_helpfulness_sacred"] is None


def test_two_prompts_a_set_are_enough_for_numbers() -> None:
    few = ResidualSets(far(2, 0, 0), far(2, 1, 4), far(2, 2, 0), far(2, 3, 4))
    rows = rows_of(few)
    values = [value for row in rows for value in row.values() if value is not None]
    assert all(math.isfinite(value) for value in values)
    assert len({tuple(row) for row in rows}) == 1

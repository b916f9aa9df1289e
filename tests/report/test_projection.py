"""The plane of a layer: main axes, signs, and the direction in it."""

import pytest
import torch

from heretic.report.projection import project_states, separating_layer


def test_most_separating_layer_breaks_ties_by_silhouette() -> None:
    geometry = {"auroc": (0.5, 1.0, 1.0, None), "silhouette": (0.9, 0.2, 0.4, 1.0)}
    assert separating_layer(geometry) == 2


def test_projection_keeps_distances_of_flat_data() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(10, 2, generator=draw, dtype=torch.float64)).Q
    flat = torch.randn(12, 2, generator=draw, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    states = flat @ basis.T + 3.0
    plane = project_states(1, states[:6], states[6:], basis[:, 0])
    points = torch.tensor(plane.good + plane.bad, dtype=torch.float64)
    torch.testing.assert_close(
        torch.cdist(points, points), torch.cdist(flat, flat), atol=1e-5, rtol=0
    )
    assert sum(plane.variance) == pytest.approx(1.0)
    assert plane.variance[0] > plane.variance[1]
    assert plane.in_plane == pytest.approx(1.0)


def test_bad_lies_on_the_right_and_the_arrow_joins_the_means() -> None:
    draw = torch.Generator().manual_seed(1)
    shift = torch.zeros(8, dtype=torch.float64)
    shift[2] = -6.0
    noise = torch.randn(40, 8, generator=draw, dtype=torch.float64)
    good, bad = noise[:20], noise[20:] + shift
    gap = bad.mean(0) - good.mean(0)
    plane = project_states(0, good, bad, gap / gap.norm())
    right = sum(x for x, _ in plane.bad) / 20
    assert right > sum(x for x, _ in plane.good) / 20
    assert plane.arrow[1][0] == pytest.approx(right, abs=0.01)
    assert plane.in_plane > 0.95


def test_equal_states_are_a_point_and_no_error() -> None:
    states = torch.ones(3, 4, dtype=torch.float64)
    plane = project_states(0, states, states, torch.eye(4, dtype=torch.float64)[0])
    assert set(plane.good + plane.bad) == {(0.0, 0.0)}
    assert plane.variance == (0.0, 0.0)

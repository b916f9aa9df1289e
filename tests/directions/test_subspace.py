"""The small space holds the same geometry as the stream, and leads back to it."""

import pytest
import torch
from clouds import cloud

from heretic.directions import subspace
from heretic.directions.subspace import Subspace, layer_chunks, working_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("d", [9, 40])  # fewer and more dimensions than states
def test_inner_products_are_those_of_the_stream(d: int) -> None:
    bad, good = cloud(8, 3, d, 0, shift=1.0), cloud(7, 3, d, 1)
    space = Subspace(bad, good, CPU)
    assert space.bad.shape == (3, 8, min(15, d))
    stream = (torch.cat([bad, good]) - good.mean(0)).transpose(0, 1)
    coordinates = torch.cat([space.bad, space.good], 1)
    assert (coordinates @ coordinates.mT - stream @ stream.mT).abs().max() < 1e-12
    assert (space.lift(coordinates) - stream).abs().max() < 1e-12
    assert (space.origin - good.mean(0)).abs().max() == 0


def test_lifting_keeps_lengths() -> None:
    space = Subspace(cloud(5, 2, 30, 0, shift=1.0), cloud(5, 2, 30, 1), CPU)
    basis = space.lift(torch.eye(10, dtype=torch.float64).expand(2, 10, 10))
    assert (basis @ basis.mT - torch.eye(10)).abs().max() < 1e-12


def test_means_that_differ_by_rounding_are_the_same() -> None:
    same = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0)).expand(7, 1, 8)
    noise = 1e-9 * torch.randn(7, 1, 8, generator=torch.Generator().manual_seed(1))
    good = torch.cat([same, torch.zeros(7, 1, 8)], 1)
    bad = torch.cat([same + noise, torch.ones(7, 1, 8)], 1)
    space = Subspace(bad, good, CPU)
    assert space.distinct.tolist() == [False, True]
    assert not space.bad[0].any()
    assert not space.good[0].any()


@pytest.mark.parametrize("budget", [1, 10_000, 10**9])
def test_chunks_cover_every_layer_once(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(subspace, "CHUNK_BYTES", budget)
    bad, good = cloud(4, 7, 20, 0), cloud(5, 7, 20, 1)
    covered = [layer for chunk in layer_chunks(bad, good) for layer in range(7)[chunk]]
    assert covered == list(range(7))


def test_a_device_without_float64_leaves_the_work_to_the_cpu() -> None:
    assert working_device(torch.device("mps")) == CPU
    assert working_device(torch.device("cuda", 1)) == torch.device("cuda", 1)

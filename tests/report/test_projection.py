"""The plane of a layer: which states are in it, main axes, signs, and the direction in it."""

import sys
from pathlib import Path

import pytest
import torch

from heretic.artifacts import read_tensors, write_tensors
from heretic.errors import HereticError, SettingsError
from heretic.report.embedding import FEWEST, check_projection
from heretic.report.geometry import separating_layer
from heretic.report.projection import embed_states, project, project_states
from heretic.report.states import evenly, open_states
from report.conftest import PROMPTS, Shape, write_states


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
    assert plane.variance
    assert plane.arrow
    assert sum(plane.variance) == pytest.approx(1.0)
    assert plane.variance[0] > plane.variance[1]
    assert plane.arrow.in_plane == pytest.approx(1.0)


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
    assert plane.arrow
    assert plane.arrow.end[0] == pytest.approx(right, abs=0.01)
    assert plane.arrow.in_plane > 0.95


def test_equal_states_are_a_point_and_no_error() -> None:
    states = torch.ones(3, 4, dtype=torch.float64)
    plane = project_states(0, states, states, torch.eye(4, dtype=torch.float64)[0])
    assert set(plane.good + plane.bad) == {(0.0, 0.0)}
    assert plane.variance == (0.0, 0.0)


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(directions=2), Shape(positions=3), Shape(directions=3, positions=2)]
)
def test_every_form_of_the_files_gives_the_same_planes(tmp_path: Path, shape: Shape) -> None:
    """The chosen one of several positions, the first of several directions."""
    write_states(tmp_path / "plain", Shape())
    write_states(tmp_path / "other", shape)
    plain, other = (
        list(project(open_states(tmp_path / name, 6), "pca")) for name in ("plain", "other")
    )
    assert [plane.layer for plane in plain] == [0, 1, 2, 3, 4, 5]
    assert plain == other


def test_many_prompts_are_thinned_out_evenly(tmp_path: Path) -> None:
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(10, 4) == [0, 2, 5, 7]
    write_states(tmp_path)
    states = open_states(tmp_path, 6)
    good, bad = states.layer(2, 10)
    assert torch.equal(good, states.good[:: PROMPTS // 10, 2].double())
    assert len(bad) == 10


def rewrite(path: Path, **tensors: torch.Tensor) -> None:
    write_tensors(path, {**read_tensors(path), **tensors}, {})


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    write_states(tmp_path, Shape(positions=2))
    source, good = (tmp_path / "directions.safetensors", tmp_path / "residuals")
    with pytest.raises(HereticError, match=r"6 layers, but geometry\.csv in the same folder has 5"):
        open_states(tmp_path, 5)
    rewrite(source, position=torch.tensor([-3]))
    with pytest.raises(HereticError, match=r"good_prompts.*holds 2 positions, so not position -3"):
        open_states(tmp_path, 6)
    rewrite(source, position=torch.tensor([1]))
    with pytest.raises(HereticError, match=r"directions\.safetensors.*position 1 is not negative"):
        open_states(tmp_path, 6)
    directions = read_tensors(source)["refusal_directions"]
    write_tensors(source, {"refusal_directions": directions}, {})
    with pytest.raises(HereticError, match="several positions, but directions"):
        open_states(tmp_path, 6)
    write_states(tmp_path)
    rewrite(source, refusal_directions=directions[:, :7])
    with pytest.raises(HereticError, match=r"has shape \[6, 7\] but the residuals"):
        open_states(tmp_path, 6)
    rewrite(source, refusal_directions=directions * torch.inf)
    with pytest.raises(HereticError, match="refusal_directions is not finite"):
        open_states(tmp_path, 6)
    write_states(tmp_path)
    rewrite(good / "bad_prompts.safetensors", residuals=torch.full((4, 6, 24), torch.nan))
    with pytest.raises(HereticError, match=r"bad_prompts.*layer 0 is not finite"):
        list(project(open_states(tmp_path, 6), "pca"))


@pytest.mark.heavy
def test_pacmap_is_repeatable_and_has_no_line() -> None:
    draw = torch.Generator().manual_seed(1)
    good = torch.randn(20, 8, generator=draw, dtype=torch.float64)
    bad = torch.randn(20, 8, generator=draw, dtype=torch.float64) + 4
    plane = embed_states(2, good, bad)
    assert plane == embed_states(2, good, bad)
    assert (plane.arrow, plane.variance, plane.layer) == (None, None, 2)
    assert max(x for x, _ in plane.good) < min(x for x, _ in plane.bad)


def test_pacmap_of_equal_states_is_a_point_and_of_few_an_error() -> None:
    states = torch.ones(FEWEST, 4, dtype=torch.float64)
    assert set(embed_states(0, states, states).good) == {(0.0, 0.0)}
    with pytest.raises(HereticError, match="at least 10 good and bad prompts, but got 8; set"):
        embed_states(0, states[:4], states[:4])


def test_pacmap_is_asked_for_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pacmap", None)
    check_projection("pca")
    with pytest.raises(SettingsError, match=r"constraints\.txt -e '\.\[plots\]'"):
        check_projection("pacmap")

"""The edit in blocks is that of `projection`, whatever the blocks and the layout."""

import pytest
import torch
from torch import Tensor

from heretic.ablation.projection import NormPreservation, ablate_bias, ablate_matrix
from heretic.export import edited_tensors
from heretic.export.edited_tensors import MatrixEdit, edited_bias, edited_blocks, plain_blocks

KINDS: list[NormPreservation] = ["none", "column", "row", "frobenius"]
D_MODEL, D_IN = 24, 40


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def units(k: int = 1, d_model: int = D_MODEL) -> Tensor:
    """Orthonormal rows [k, d_model]."""
    found: Tensor = torch.linalg.qr(random(d_model, k, seed=4)).Q
    return found.T.contiguous()


@pytest.mark.parametrize("strengths", [(1.3,), (1.3, 0.4, 2.0)])
@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_edit_of_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch,
    kind: NormPreservation,
    transposed: bool,
    rows: int,
    strengths: tuple[float, ...],
) -> None:
    directions = units(len(strengths))
    weight = random(D_MODEL, D_IN)
    stored = weight.T.contiguous() if transposed else weight
    monkeypatch.setattr(edited_tensors, "BLOCK_BYTES", rows * 8 * stored.shape[1])

    edit = MatrixEdit(directions, strengths, transposed, kind)
    found = list(edited_blocks(stored, edit, torch.float64))

    assert len(found) == -(-len(stored) // rows)
    whole = torch.cat(found)
    expected = ablate_matrix(weight.double(), directions, strengths, kind)
    torch.testing.assert_close(whole.T if transposed else whole, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_once_and_from_what_loading_gives(dtype: torch.dtype) -> None:
    stored = random(D_MODEL, D_IN)

    edit = MatrixEdit(units(2), (1.0, 0.5), False, "none")
    found = torch.cat(list(edited_blocks(stored, edit, dtype)))

    exact = ablate_matrix(stored.to(dtype).double(), units(2), (1.0, 0.5))
    assert found.equal(exact.to(dtype))


def test_may_be_written_back_while_it_is_read() -> None:
    stored = random(D_MODEL, D_IN)
    edit = MatrixEdit(units(2), (0.8, 0.3), False, "column")
    expected = torch.cat(list(edited_blocks(stored.clone(), edit, torch.float32)))
    start = 0
    for block in edited_blocks(stored, edit, torch.float32):
        stored[start : start + len(block)] = block
        start += len(block)
    assert stored.equal(expected)


def test_threads_leave_no_trace() -> None:
    stored = random(600, 700)
    edit = MatrixEdit(units(3, 600), (1.1, 0.5, 0.2), False, "row")
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(torch.cat(list(edited_blocks(stored, edit, torch.float32))))
    torch.set_num_threads(before)
    assert found[0].equal(found[1])


def test_a_column_of_nothing_but_the_direction_is_not_scaled_up() -> None:
    stored = random(D_MODEL, D_IN)
    stored[:, 3] = torch.tensor([5.0, -2.0]) @ units(2)
    edit = MatrixEdit(units(2), (1.0, 1.0), False, "column")
    found = torch.cat(list(edited_blocks(stored, edit, torch.float32)))
    assert found[:, 3].abs().max() < 1e-5
    torch.testing.assert_close(found.norm(dim=0)[4:], stored.norm(dim=0)[4:])


def test_a_bias_loses_the_directions_too() -> None:
    bias = random(D_MODEL)
    found = edited_bias(bias, units(2), (1.0, 1.0), torch.float32)
    assert (units(2) @ found).abs().max() < 1e-6
    torch.testing.assert_close(found, ablate_bias(bias, units(2), (1.0, 1.0)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transposed", [False, True])
def test_experts_are_edited_as_if_each_were_alone(kind: NormPreservation, transposed: bool) -> None:
    weight = random(3, 400, 800)  # in several blocks each
    stored = weight.mT.contiguous() if transposed else weight
    edit = MatrixEdit(units(2, 400), (1.2, 0.5), transposed, kind)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)

    found = list(edited_blocks(stored, edit, torch.bfloat16))

    torch.set_num_threads(threads)
    assert all(block.numel() * 8 <= edited_tensors.BLOCK_BYTES for block in found)
    alone = [torch.cat(list(edited_blocks(one, edit, torch.bfloat16))) for one in stored]
    assert torch.cat(found).reshape(stored.shape).equal(torch.stack(alone))


def test_biases_of_experts_are_edited_as_if_each_were_alone() -> None:
    biases = random(5, D_MODEL)
    found = edited_bias(biases, units(2), (1.0, 0.4), torch.float32)
    alone = [edited_bias(bias, units(2), (1.0, 0.4), torch.float32) for bias in biases]
    assert found.equal(torch.stack(alone))


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4, 5)])
def test_plain_blocks_are_the_tensor(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(edited_tensors, "BLOCK_BYTES", 8 * 7)
    tensor = random(*shape)
    found = list(plain_blocks(tensor, torch.bfloat16))
    assert torch.cat([*found]).equal(tensor.bfloat16().reshape(-1))
    assert all(len(block) <= 7 for block in found)

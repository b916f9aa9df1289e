"""Batches shrink when memory runs out, and every item is still worked on exactly once."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heretic.errors import ModelLoadError
from heretic.model.batching import BatchSize, by_length, is_out_of_memory, run_in_batches

MESSAGES = [
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "MPS backend out of memory (MPS allocated: 8 GB)",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes",
    "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
]


def collect(
    items: int, size: BatchSize, fits: int, error: BaseException | None = None
) -> list[tuple[int, ...]]:
    """Batches that were done, where only `fits` items fit into memory."""

    def work(indices: Sequence[int]) -> tuple[int, ...]:
        if len(indices) > fits:
            raise error or torch.OutOfMemoryError("CUDA out of memory")
        return tuple(indices)

    return [result for _, result in run_in_batches(range(items), size, work)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.integers(1, 64), st.integers(1, 64))
def test_no_index_is_lost_or_done_twice(items: int, batch: int, fits: int) -> None:
    size = BatchSize(batch)

    batches = collect(items, size, fits)

    assert [index for indices in batches for index in indices] == list(range(items))
    assert all(len(indices) <= fits for indices in batches)


def test_indices_come_with_their_results() -> None:
    found = list(run_in_batches([4, 2, 7], BatchSize(2), lambda indices: [i * i for i in indices]))

    assert found == [([4, 2], [16, 4]), ([7], [49])]


def test_halves_and_remembers() -> None:
    size = BatchSize(16)

    first = collect(20, size, fits=5)
    second = collect(8, size, fits=5)

    assert [len(indices) for indices in first] == [4] * 5
    assert [len(indices) for indices in second] == [4] * 2
    assert size.current == 4


def test_does_not_try_sizes_above_what_there_is() -> None:
    tried: list[int] = []

    def work(indices: Sequence[int]) -> int:
        tried.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0

    list(run_in_batches(range(6), BatchSize(512), work))

    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("message", MESSAGES)
def test_every_backends_words_are_understood(message: str) -> None:
    batches = collect(5, BatchSize(4), fits=2, error=RuntimeError(message))

    assert [len(indices) for indices in batches] == [2, 2, 1]


def test_an_allocation_that_really_fails_is_understood() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as failure:
        torch.empty(2**46)

    assert is_out_of_memory(failure.value)


def test_a_single_prompt_that_does_not_fit_is_refused_with_advice() -> None:
    size = BatchSize(4)

    with pytest.raises(
        ModelLoadError, match=r"single prompt runs out of memory; .*cache_weights=false or a larger"
    ):
        collect(5, size, fits=0)


def test_other_errors_pass_through() -> None:
    size = BatchSize(4)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        collect(5, size, fits=0, error=RuntimeError("shapes cannot be multiplied"))

    assert size.current == 4


def test_work_may_return_nothing() -> None:
    found = list(run_in_batches(range(3), BatchSize(2), lambda indices: None))

    assert [list(indices) for indices, _ in found] == [[0, 1], [2]]


@given(st.lists(st.integers(0, 50)))
def test_longest_first(lengths: list[int]) -> None:
    order = by_length(lengths)

    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)

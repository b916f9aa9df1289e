"""Adaptive batch sizes: start large, halve when memory runs out, and keep the smaller size."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from heretic.console import log
from heretic.errors import ModelLoadError

# Error messages of CUDA and HIP, cuBLAS, XPU, and the CPU allocators.
OUT_OF_MEMORY = (
    "out of memory",
    "alloc_failed",
    "out_of_device_memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
)


@dataclass
class BatchSize:
    """The largest number of prompts per batch that has not exhausted memory yet."""

    current: int

    def halve(self) -> None:
        """Record that the current size is too large.

        Raises:
            ModelLoadError: a single prompt does not fit.
        """
        if self.current == 1:
            raise ModelLoadError(
                "a single prompt runs out of memory; use shorter prompts, a smaller "
                "max_response_length, cache_weights=false or a larger device"
            )
        self.current = max(1, self.current // 2)
        log.warning("Out of memory: continuing with batches of %d prompts", self.current)


def by_length(lengths: Sequence[int]) -> list[int]:
    """Return indices by decreasing length, for little padding and the largest batch first."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


T = TypeVar("T")


def run_in_batches(
    order: Sequence[int], size: BatchSize, work: Callable[[Sequence[int]], T]
) -> Iterator[tuple[Sequence[int], T]]:
    """Yield `(indices, work(indices))` over `order`, halving the batch when memory runs out.

    Raises:
        ModelLoadError: a single item does not fit.
    """
    start = 0
    while start < len(order):
        indices = order[start : start + size.current]
        done = False
        try:
            result = work(indices)
            done = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not done:
            # Outside the handler, where the traceback would keep the failed batch's tensors alive.
            release_memory()
            size.current = min(size.current, len(indices))
            size.halve()
            continue
        yield indices, result
        start += len(indices)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of any backend means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in OUT_OF_MEMORY)


def release_memory() -> None:
    """Release unused memory, including the accelerator's."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""CPU threads, and devices of computation, which differ from those of offloaded parameters.

accelerate keeps offloaded parameters on the CPU or on disk and leaves placeholders on torch's
`meta` device; a hook loads the parameters while their module runs.
"""

import os
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn


def execution_device(module: nn.Module) -> torch.device:
    """Return the device of a module's computation; the CPU if it has no tensors."""
    for hook in _hooks(module):
        place = getattr(hook, "execution_device", None)
        if place is not None:
            return torch.device(place)
    tensors = chain(module.parameters(), module.buffers())
    return next((t.device for t in tensors if not t.is_meta), torch.device("cpu"))


def brought(module: nn.Module) -> AbstractContextManager[None]:
    """Within the block, move a module's own offloaded parameters to its compute device."""
    there: AbstractContextManager[None] = align_module_device(module)
    return there


def _hooks(module: nn.Module) -> list[Any]:
    hook: Any = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def set_threads(threads: int) -> int:
    """Set torch's number of CPU threads; 0 uses every core available to this process.

    Snakemake sets OMP_NUM_THREADS to the cores of a rule, which would leave one thread.

    Returns:
        The number of threads.
    """
    # Not every system reports the cores available to a process.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or cores or 1)
    return torch.get_num_threads()

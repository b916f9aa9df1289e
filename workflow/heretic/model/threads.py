"""CPU threads of torch."""

import os

import torch


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

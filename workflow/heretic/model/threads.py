"""CPU threads of torch."""

import os

import torch


def set_threads(threads: int) -> int:
    """Give torch its CPU threads; 0 takes every core that this process may use.

    Snakemake sets OMP_NUM_THREADS to the cores of a rule, which would leave one thread.

    Returns:
        The number of threads.
    """
    # Not every system tells which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or cores or 1)
    return torch.get_num_threads()

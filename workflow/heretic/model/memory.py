"""Peak memory of an operation, for a log line."""

import resource
import sys

import torch
from transformers import PreTrainedModel

GIGABYTE = 1e9


class PeakMemory:
    """Tracks peak memory since creation: of the GPUs that hold a network, or of this process.

    A process cannot reset its peak, so on a CPU the peak of earlier work counts too.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        devices = {parameter.device for parameter in network.parameters()}
        self._gpus = sorted((d for d in devices if d.type == "cuda"), key=str)
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)

    def __str__(self) -> str:
        if not self._gpus:
            return f"{_resident_bytes() / GIGABYTE:.2f} GB of the process"
        peaks = {gpu: torch.cuda.max_memory_allocated(gpu) for gpu in self._gpus}
        return ", ".join(f"{peak / GIGABYTE:.2f} GB on {gpu}" for gpu, peak in peaks.items())


def _resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # all other systems count in KiB

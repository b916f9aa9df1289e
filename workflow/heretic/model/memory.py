"""Peak memory of an operation, and the memory for copies of original weights."""

import resource
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch
from transformers import PreTrainedModel

from heretic.console import log
from heretic.model.stream_writers.anatomy import StreamWriter

CachePlace = Literal["model", "host"]
Place = Literal["model", "host", "disk"]
# Evaluation batches need memory besides the model and its copies.
SHARE_OF_FREE_MEMORY = 0.5
GIGABYTE = 1e9
WORDS: Mapping[Place, str] = {
    "model": "copied on the model's devices",
    "host": "copied to main memory",
    "disk": "re-read from disk",
}


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


@dataclass(frozen=True)
class Memory:
    """Byte counts for placement.

    Attributes:
        needed: size of the edited maps, by device.
        free: free bytes on each of these devices.
        host: free main memory.
    """

    needed: Mapping[torch.device, int]
    free: Mapping[torch.device, int]
    host: int

    def fits(self, place: CachePlace) -> bool:
        """Return whether copies in a given place leave enough free memory for evaluations."""
        if place == "host":
            return sum(self.needed.values()) <= SHARE_OF_FREE_MEMORY * self.host
        return all(
            needed <= SHARE_OF_FREE_MEMORY * self.free[device]
            for device, needed in self.needed.items()
        )

    def __str__(self) -> str:
        devices = {str(device): n for device, n in self.needed.items() if device.type != "cpu"}
        free = {str(device): n for device, n in self.free.items()}
        needed = f"{sum(self.needed.values()) / GIGABYTE:.2f} GB"
        figures = [
            *(
                f"{n / GIGABYTE:.2f} of {free[at] / GIGABYTE:.2f} GB free on {at}"
                for at, n in sorted(devices.items())
            ),
            f"{self.host / GIGABYTE:.2f} GB of main memory free",
        ]
        return f"{needed} ({', '.join(figures)})"


def plan_place(memory: Memory, cache_weights: str, cache_device: str) -> Place:
    """Return the source of the original weights.

    Args:
        memory: available memory.
        cache_weights: as the setting; `true` requests copies even if memory seems insufficient.
        cache_device: as the setting; all values are equivalent if the model is in main memory.
    """
    if cache_weights == "false":
        return "disk"
    places = _places(memory, cache_device)
    fitting = next((place for place in places if memory.fits(place)), None)
    if fitting is None:
        return "disk" if cache_weights == "auto" else places[-1]
    return fitting


def _places(memory: Memory, cache_device: str) -> tuple[CachePlace, ...]:
    """Return the permitted places in order of preference."""
    if cache_device == "host" or all(device.type == "cpu" for device in memory.needed):
        return ("host",)
    return ("model",) if cache_device == "model" else ("model", "host")


def choose_place(writers: Iterable[StreamWriter], cache_weights: str, cache_device: str) -> Place:
    """Apply `plan_place` to the writers of a loaded model, and log the result."""
    memory = measure(writers)
    place = plan_place(memory, cache_weights, cache_device)
    log.info("Original weights take %s: %s", memory, WORDS[place])
    return place


def copies_fit(writers: Sequence[StreamWriter], cache_device: str) -> bool:
    """Return whether copies of the weights fit in memory; uneditable weights are not copied."""
    if not all(writer.editable for writer in writers):
        return True
    return plan_place(measure(writers), "auto", cache_device) != "disk"


def measure(writers: Iterable[StreamWriter]) -> Memory:
    """Measure the memory for copies of the writers, and the free memory."""
    needed: Counter[torch.device] = Counter()
    for writer in writers:
        for tensor in (writer.weight, writer.bias):
            if tensor is not None:
                needed[tensor.device] += tensor.nbytes
    free = {device: free_memory(device) for device in needed}
    return Memory(needed, free, free_memory(torch.device("cpu")))


def free_memory(device: torch.device) -> int:
    """Return the bytes available for new tensors on `device`."""
    if device.type in ("cuda", "xpu"):
        module: Any = torch.get_device_module(device)
        return int(module.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)  # of the CPU and devices that share its memory

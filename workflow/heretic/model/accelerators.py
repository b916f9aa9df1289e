"""Availability of a device, determined from system files before torch is imported."""

import os
import re
import shutil
import sys
from pathlib import Path

from heretic.errors import ModelLoadError

TYPES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu", "musa", "xla")
# NVIDIA drivers on Linux and in a Windows guest, and AMD drivers, whose devices torch calls cuda.
CUDA_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia/gpus")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
# On a machine that submits jobs, the device belongs to another machine.
SUBMITTERS = ("sbatch", "qsub", "bsub", "condor_submit", "flux")


def check_device(device: str) -> None:
    """Reject a device that is unknown to torch or whose driver is missing on this machine.

    Raises:
        ModelLoadError: the message names an alternative setting.
    """
    if device == "auto":
        return
    name = re.fullmatch(r"([a-z]+)(?::(\d{1,3}))?", device)
    if name is None or name[1] not in TYPES:
        raise ModelLoadError(
            f"device={device!r:.60} is not a torch device; use auto, cpu, cuda or cuda:<number>"
        )
    if any(shutil.which(command) for command in SUBMITTERS):
        return
    number = int(name[2] or 0)
    if name[1] == "mps" and sys.platform != "darwin":
        raise ModelLoadError(f"device={device} is for Macs; use device=auto")
    if name[1] == "cuda" and sys.platform in ("linux", "darwin"):
        gpus = _cuda_devices()
        if gpus is not None and number >= gpus:
            found = f"has {gpus} such devices" if gpus else "has no driver for it"
            raise ModelLoadError(
                f"device={device} is not available: this machine {found}; use device=auto, which "
                "selects the accelerator of the machine that runs the job"
            )


def _cuda_devices() -> int | None:
    """Return the number of torch's cuda devices, or None if devices exist but are not counted."""
    if not any(Path(path).exists() for path in CUDA_FILES):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip()])
    return len(list(NVIDIA_GPUS.iterdir())) if NVIDIA_GPUS.is_dir() else None

"""Timing of a trial by stage."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# In the order of a trial; `overhead` is the time outside all other stages.
STAGES = ("sampler", "restore", "edit", "prefill", "decode", "overhead")


class StageTimer:
    """Accumulates wall time by stage.

    Stages may be nested: an inner stage's seconds are excluded from the outer one. The clock waits
    for an accelerator at both ends of a stage, so that its work is attributed to that stage.
    """

    def __init__(self, device: "torch.device | None" = None) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._synchronized = device is not None and device.type in ("cuda", "xpu")
        self._device = device
        self._open = ["overhead"]
        self._since = self._now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record the block's time under the stage `name`, one of `STAGES`."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def read(self) -> dict[str, float]:
        """Return seconds by stage since the clock's creation or last reading, and reset it."""
        self._charge()
        seconds, self.seconds = self.seconds, dict.fromkeys(STAGES, 0.0)
        return seconds

    def _charge(self) -> None:
        now = self._now()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self._synchronized:
            import torch  # here, so that merely reading the seconds does not import it

            torch.accelerator.synchronize(self._device)
        return time.perf_counter()


def mean_seconds(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return mean seconds by stage over readings of a clock; empty without readings."""
    count = len(readings)
    return {name: sum(r[name] for r in readings) / count for name in STAGES} if count else {}

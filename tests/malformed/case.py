"""One malformed input, and the limits within which it must be handled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 20
# Waiting costs no CPU time: a silent server must not hold a command for longer than this.
WALL_SECONDS = 45
MEMORY_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Case:
    """A malformed input and the call that a user would reach it by.

    Attributes:
        name: unique in its group, such as `config.json: hidden_size null`.
        action: writes the input into an empty folder and makes the call.
    """

    name: str
    action: Callable[[Path], object]


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        status: exit status; negative for the signal that ended the process.
        output: everything written to stdout and stderr.
        cpu_seconds: user and system time.
        wall_seconds: elapsed time.
        peak_bytes: largest resident memory.
        stopped: the limit that was exceeded, if one was.
    """

    status: int
    output: str
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    stopped: str | None = None

    def fault(self) -> str | None:
        """Return why the outcome is unacceptable, or None for success or one line of error."""
        if self.stopped is not None:
            return f"exceeded {self.stopped}"
        if "Traceback (most recent call last)" in self.output:
            return "traceback"
        if self.peak_bytes > MEMORY_BYTES:
            return f"used {self.peak_bytes / 1e9:.1f} GB"
        if self.status == 0:
            return None
        if self.status != 1:
            return f"exit status {self.status}"
        lines = [line for line in self.output.splitlines() if line.strip()]
        if len(lines) != 1:
            return f"{len(lines)} lines instead of one"
        if "Error: " not in lines[0]:
            return "not an error line"
        return None

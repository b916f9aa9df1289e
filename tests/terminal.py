"""Programs on a terminal of their own, as a user sees them."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERRUPT = b"\x03"
LONGEST = 300.0


@dataclass(frozen=True)
class Seen:
    """What a program left on its terminal.

    Attributes:
        text: all of it, with the terminal's control sequences.
        after: what came after the interrupt key was pressed.
        status: of the program's end; negative for a signal.
    """

    text: str
    after: str
    status: int

    @property
    def plain(self) -> str:
        """The text without control sequences."""
        return _plain(self.text)

    @property
    def last_line(self) -> str:
        """Last line that is not blank, without control sequences."""
        return _lines(self.text)[-1]

    @property
    def lines_after(self) -> list[str]:
        """Lines after the interrupt key that are not blank, without control sequences."""
        return _lines(self.after.replace("^C", "\n"))


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


def _lines(text: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", _plain(text)) if line.strip()]


def on_terminal(
    command: Sequence[str],
    *,
    columns: int = 80,
    folder: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    interrupt_at: str | None = None,
    presses: int = 1,
) -> Seen:
    """Run a program as the foreground process of a terminal, to its end.

    Args:
        command: the program and its arguments.
        columns: width of the terminal.
        folder: to run in.
        environ: variables of the program.
        interrupt_at: press the interrupt key once this pattern has been shown.
        presses: how often, a moment apart.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environ, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown, mark, left = b"", 0, presses if interrupt_at else 0
    deadline, pressed = time.monotonic() + LONGEST, 0.0
    with contextlib.suppress(OSError):  # a closed terminal ends in an error, not in an end
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.05)[0]:
                piece = os.read(ours, 65536)
                if not piece:
                    break
                shown += piece
            seen = interrupt_at is not None and re.search(interrupt_at.encode(), shown)
            if left and seen and time.monotonic() - pressed > 0.3:
                mark = mark or len(shown)
                os.write(ours, INTERRUPT)
                left, pressed = left - 1, time.monotonic()
    os.close(ours)
    if process.poll() is None and time.monotonic() >= deadline:
        process.kill()
    status = process.wait()
    return Seen(shown.decode(errors="replace"), shown[mark:].decode(errors="replace"), status)

"""Malformed inputs end in success or one line, within bounded time and memory."""

import pytest

from malformed.case import Outcome
from malformed.corpus import GROUPS
from malformed.fork_server import run_group

pytestmark = pytest.mark.heavy
FEWEST = 100  # inputs of a group


@pytest.mark.parametrize("group", GROUPS)
def test_no_traceback_and_no_hang(group: str) -> None:
    outcomes = list(run_group(group))
    assert len(outcomes) >= FEWEST
    faults = {
        name: f"{fault}: {outcome.output.strip()[-600:]}"
        for name, outcome in outcomes
        if (fault := outcome.fault()) is not None
    }
    assert not faults, "\n".join(f"{name}: {text}" for name, text in faults.items())


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(0, "", 1, 1, 0), None),
        (Outcome(1, "ModelLoadError: x\n", 1, 1, 0), None),
        (Outcome(1, "a\nModelLoadError: x\n", 1, 1, 0), "2 lines instead of one"),
        (Outcome(0, "Traceback (most recent call last)", 1, 1, 0), "traceback"),
        (Outcome(99, "", 1, 1, 0), "exit status 99"),
        (Outcome(-9, "", 20, 20, 0, "20 s of CPU time"), "exceeded 20 s of CPU time"),
        (Outcome(0, "", 1, 1, 3 * 10**9), "used 3.0 GB"),
    ],
)
def test_faults_are_recognized(outcome: Outcome, fault: str | None) -> None:
    assert outcome.fault() == fault

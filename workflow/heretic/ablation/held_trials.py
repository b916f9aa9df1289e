"""What both editors do about the trials that they are to hold."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from heretic.ablation.plan import Edit
from heretic.errors import ModelLoadError
from heretic.stages import StageClock


def require_few(trials: Sequence[Sequence[Edit]], most: int) -> None:
    """Refuse more trials than an editor can hold at once.

    Raises:
        ModelLoadError: there are more than `most`.
    """
    if len(trials) > most:
        raise ModelLoadError(
            f"{len(trials)} trials are to be tried at once, and this model's editor holds {most}; "
            f"set trials_in_flight={most}"
        )


def staged(clock: StageClock | None, stage: str) -> AbstractContextManager[None]:
    """Count what happens inside for a stage, if there is a clock."""
    return nullcontext() if clock is None else clock.stage(stage)

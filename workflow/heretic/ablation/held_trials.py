"""Common handling of the trials held by both editors."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from heretic.ablation.plan import Edit
from heretic.errors import ModelLoadError
from heretic.stages import StageClock


def require_few(trials: Sequence[Sequence[Edit]], most: int) -> None:
    """Reject more trials than an editor can hold at once.

    Raises:
        ModelLoadError: there are more than `most`.
    """
    if len(trials) > most:
        raise ModelLoadError(
            f"{len(trials)} trials were requested at once, but this model's editor supports at "
            f"most {most}; set trial_batch_size={most}"
        )


def staged(clock: StageClock | None, stage: str) -> AbstractContextManager[None]:
    """Record the block's time under a stage if there is a clock."""
    return nullcontext() if clock is None else clock.stage(stage)

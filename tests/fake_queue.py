"""Good prompts of a study as rows of one trial, of a model in its original state."""

from collections.abc import Sequence

from heretic.engine.decode_batch import DecodeBatch, RowKey
from heretic.engine.study_prompts import StudyPrompts


class RowQueue:
    """Batch after batch, prefilled when there is room; passes are made whole."""

    def __init__(self, prompts: StudyPrompts, length: int) -> None:
        self.prompts, self.length = prompts, length
        self.left = list(prompts.good)
        self.assigned: list[int] = []

    def assign(self, owners: Sequence[RowKey]) -> None:
        self.assigned.append(len(owners))

    def passing(self, rows: DecodeBatch, guesses: Sequence[Sequence[int]]) -> None:
        pass

    def take(self, room: int) -> DecodeBatch | None:
        if not self.left or len(self.left[0].prompts) > room:
            return None
        batch = self.left.pop(0)
        return DecodeBatch.of(self.prompts.prefill(batch, 0, None), batch.prompts, 0, self.length)

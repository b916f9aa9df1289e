"""Answers are those of `generate`, however rows come, go and are read."""

from collections.abc import Sequence

import pytest
from fake_queue import RowQueue
from tiny_models import PROMPTS, tiny_model

from heretic.engine.decode import StopCriteria, decode_rows
from heretic.engine.decode_batch import RowKey
from heretic.engine.steps import PlainStepRunner
from heretic.engine.study_prompts import StudyPrompts
from heretic.model.decoding import end_tokens, generate
from heretic.model.loading import Model

MANY = [*PROMPTS, *PROMPTS[::-1]]


def queue_of(model: Model, length: int) -> RowQueue:
    prompts = StudyPrompts(model, model.chat.encode(MANY), [], 0, 0.0, most_rows=3)
    return RowQueue(prompts, length)


@pytest.mark.parametrize("length", [1, 2, 3, 6, 7])
@pytest.mark.parametrize(("between_reads", "most_rows"), [(1, 3), (4, 4), (4, 10)])
def test_answers_end_where_those_of_generate_do(
    length: int, between_reads: int, most_rows: int
) -> None:
    model = tiny_model()
    likely = generate(model, MANY, 8)
    # Ends that some answers reach and others do not.
    ends = sorted({likely[0][2], likely[3][5], *end_tokens(model)})
    model.network.generation_config.eos_token_id = ends
    plain = generate(model, MANY, length)
    steps, queue = PlainStepRunner(model), queue_of(model, length)
    steps.between_reads = between_reads
    ending = StopCriteria(ends, length, lambda texts: [False] * len(texts))
    answers = decode_rows(model, steps, queue, most_rows, ending)
    assert [answers[RowKey(0, prompt)] for prompt in range(len(MANY))] == plain
    assert max(queue.assigned) <= most_rows


def test_a_settled_answer_stops_and_makes_room() -> None:
    model = tiny_model()
    looked: list[str] = []

    def settled(texts: Sequence[str]) -> list[bool]:
        looked.extend(texts)
        return [True] * len(texts)

    ending = StopCriteria((), 20, settled)
    answers = decode_rows(model, PlainStepRunner(model), queue_of(model, 20), 3, ending)
    plain = generate(model, MANY, 20)
    for prompt, whole in enumerate(plain):
        answer = answers[RowKey(0, prompt)]
        assert 0 < len(answer) < 20
        assert answer == whole[: len(answer)]
        assert model.chat.decode(answer) in looked

"""Guessed tokens are kept as far as the network agrees, and guessed less where they were wrong."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from tiny_models import PROMPTS, tiny_model

from heretic.inference import rows
from heretic.inference.decode import Ending, decode_rows
from heretic.inference.drafts import LONGEST, MOST_ANSWERS, DraftBook
from heretic.inference.rows import Owner, Rows
from heretic.inference.steps import PlainSteps
from heretic.inference.study_prompts import StudyPrompts
from heretic.model.decoding import generate
from heretic.model.loading import Model

LENGTH = 12
FAR = [1000]


class AllAtOnce:
    """Every prompt, prefilled when there is room."""

    def __init__(self, prompts: StudyPrompts) -> None:
        self.prompts, self.left = prompts, list(prompts.good)

    def take(self, room: int) -> Rows | None:
        if not self.left or len(self.left[0].prompts) > room:
            return None
        batch = self.left.pop(0)
        return Rows.of(self.prompts.prefill(batch, 0, None), batch.prompts, 0, LENGTH)


@pytest.fixture
def model() -> Model:
    return tiny_model()


@pytest.fixture
def passes(model: Model) -> list[int]:
    """Columns of each pass."""
    seen: list[int] = []
    model.network.register_forward_pre_hook(
        lambda *_: seen.append(_[2]["input_ids"].shape[1]), with_kwargs=True
    )
    return seen


def answers_of(
    model: Model, book: DraftBook | None, ends: Sequence[int] = (), between_reads: int = 1
) -> Mapping[Owner, list[int]]:
    prompts = StudyPrompts(model, model.chat.encode(PROMPTS), [], 0, 0.0, most_rows=3)
    ending = Ending(set(ends), LENGTH, lambda texts: [False] * len(texts))
    steps = PlainSteps(model)
    steps.between_reads = between_reads
    return decode_rows(model, steps, AllAtOnce(prompts), 8, ending, lambda _: None, book)


def test_known_answers_are_verified_in_few_passes(model: Model, passes: list[int]) -> None:
    plain = answers_of(model, None)
    n_plain = len(passes)
    book = DraftBook()
    for owner, answer in plain.items():
        for _ in range(30):  # repeated, an answer is trusted
            book.learn(owner.prompt, answer)
    passes.clear()
    assert answers_of(model, book) == plain
    assert len(passes) < n_plain / 2


@pytest.mark.parametrize("seed", range(4))
def test_wrong_guesses_change_no_answer(model: Model, seed: int, passes: list[int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    plain = answers_of(model, None)
    book = DraftBook()
    for owner, answer in plain.items():
        spoiled = list(answer)
        at = int(torch.randint(1, LENGTH, (), generator=draw))
        spoiled[at] = (spoiled[at] + 1) % 200
        book.learn(owner.prompt, spoiled)
    passes.clear()
    assert answers_of(model, book) == plain
    assert max(n for n in passes if n <= LENGTH) > 1  # something was guessed
    # What was learned is the truth now.
    assert answers_of(model, book) == plain


def test_an_end_token_may_be_guessed(model: Model) -> None:
    plain = answers_of(model, None)
    ends = sorted({answer[5] for answer in plain.values()})
    short = answers_of(model, None, ends)
    assert min(map(len, short.values())) < LENGTH
    book = DraftBook()
    assert answers_of(model, book, ends) == short
    assert answers_of(model, book, ends) == short


def test_the_latest_answer_that_begins_alike_is_continued() -> None:
    book, owner = DraftBook(), [Owner(0, 7)]
    book.learn(7, [1, 2, 3])
    book.learn(7, [1, 2, 4])
    assert book.propose(owner, [[1, 2]], FAR) == [[4]]
    book.learn(7, [1, 2, 3])
    assert book.propose(owner, [[1, 2]], FAR) == [[3]]
    assert book.propose(owner, [[2]], FAR) is None
    assert book.propose(owner, [[1, 2, 3]], FAR) is None
    assert book.propose([Owner(0, 8)], [[1, 2]], FAR) is None
    for other in range(MOST_ANSWERS):
        book.learn(7, [9, other])
    assert book.propose(owner, [[1, 2]], FAR) is None


def test_a_prompt_whose_guesses_fail_is_guessed_less_until_it_has_waited() -> None:
    book, owner = DraftBook(), [Owner(3, 0)]
    book.learn(0, list(range(2 * LONGEST)))

    def length() -> int:
        guesses = book.propose(owner, [[0]], FAR)
        return len(guesses[0]) if guesses else 0

    first = length()
    book.judge(owner, [[1, 2, 3, 4]], [4])
    assert length() > first
    for _ in range(12):
        book.judge(owner, [[1, 2, 3, 4]], [0])
    assert length() == 0
    for _ in range(30):
        book.learn(0, list(range(2 * LONGEST)))
    assert length() > 0


def test_few_guesses_among_many_rows_are_not_made() -> None:
    book = DraftBook()
    book.learn(0, [1, 2, 3, 4])
    assert book.propose([Owner(0, 0), Owner(0, 1)], [[1], [1]], FAR * 2) == [[2, 3, 4], []]
    owners = [Owner(0, prompt) for prompt in range(9)]
    assert book.propose(owners, [[1]] * 9, FAR * 9) is None


def test_no_more_is_guessed_than_there_is_room_for() -> None:
    book, owner = DraftBook(), [Owner(0, 0)]
    book.learn(0, [1, 2, 3, 4, 5])
    assert book.propose(owner, [[1]], [1000], 2) == [[2, 3]]
    assert book.propose(owner, [[1]], [1000], 0) is None
    assert book.propose(owner, [[1]], [1000], -1) is None
    assert book.propose(owner, [[1]], [3]) == [[2, 3]]
    assert book.propose(owner, [[1]], [1]) is None


def test_guesses_take_no_more_logits_than_allowed(
    model: Model, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, book = answers_of(model, None), DraftBook()
    for _ in range(30):
        for owner, answer in plain.items():
            book.learn(owner.prompt, answer)
    vocabulary = model.network.config.vocab_size
    monkeypatch.setattr(rows, "MOST_LOGITS", 3 * len(plain) * vocabulary)
    passes.clear()
    assert answers_of(model, book) == plain
    assert max(n for n in passes if n <= LENGTH) == 3


@pytest.mark.parametrize("between_reads", [1, 4])
def test_no_token_is_fed_beyond_what_a_network_has_learned(between_reads: int) -> None:
    longest = max(map(len, tiny_model().chat.encode(PROMPTS)))
    # The last token of an answer is not fed.
    model = tiny_model("gpt2", n_positions=longest + LENGTH - 1)
    book, found = DraftBook(), []
    for _ in range(3):
        found.append(answers_of(model, book, between_reads=between_reads))
    assert found[0] == found[1] == found[2]
    assert [found[0][Owner(0, i)] for i in range(len(PROMPTS))] == generate(model, PROMPTS, LENGTH)

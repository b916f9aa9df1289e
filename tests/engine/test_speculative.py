"""Guessed tokens are kept as far as the network agrees, and guessed less where they were wrong."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from fake_queue import RowQueue
from tiny_models import PROMPTS, tiny_model

from heretic.engine import decode_batch, speculative
from heretic.engine.decode import StopCriteria, decode_rows
from heretic.engine.decode_batch import RowKey
from heretic.engine.speculative import LONGEST, MOST_ANSWERS, DraftCache, Guess
from heretic.engine.steps import PlainStepRunner
from heretic.engine.study_prompts import StudyPrompts
from heretic.model.decoding import generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt

LENGTH = 12
COST = 40  # of a pass beside its tokens, in tokens
FAR = 1000


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
    model: Model,
    book: DraftCache | None,
    ends: Sequence[int] = (),
    between_reads: int = 1,
    asked: Sequence[Prompt] = PROMPTS,
) -> Mapping[RowKey, list[int]]:
    prompts = StudyPrompts(model, model.chat.encode(asked), [], 0, 0.0, most_rows=3)
    ending = StopCriteria(set(ends), LENGTH, lambda texts: [False] * len(texts))
    steps = PlainStepRunner(model)
    steps.between_reads = between_reads
    return decode_rows(model, steps, RowQueue(prompts, LENGTH), 8 + len(asked), ending, book)


def test_known_answers_are_verified_in_few_passes(model: Model, passes: list[int]) -> None:
    plain = answers_of(model, None)
    n_plain = len(passes)
    book = DraftCache(COST)
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
    book = DraftCache(COST)
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
    book = DraftCache(COST)
    assert answers_of(model, book, ends) == short
    for owner, answer in short.items():
        if len(answer) > 1:
            # The pass over these tells the end.
            known = guess(book, owner.prompt, answer[:1]).tokens
            assert known == (answer[1:] if len(answer) < LENGTH else answer[1:-1])
    assert answers_of(model, book, ends) == short


def test_decoding_learns_which_guesses_are_wrong(model: Model) -> None:
    book = DraftCache(COST)

    def length() -> int:
        book.learn(0, [first, *range(100, 100 + 2 * LONGEST)])
        return len(guess(book, 0, [first], others=60).tokens)

    first = answers_of(model, None)[RowKey(0, 0)][0]
    before = length()
    answers_of(model, book)
    assert length() < before


def guess(book: DraftCache, prompt: int, answer: Sequence[int], others: int = 0) -> Guess:
    """What is guessed for a row among others that are unlike any answer."""
    owners = [RowKey(0, prompt), *(RowKey(0, 10_000 + i) for i in range(others))]
    return book.propose(owners, [answer, *[[77_777]] * others], [FAR] * len(owners))[0]


def test_the_latest_answer_that_begins_alike_is_continued() -> None:
    book = DraftCache(COST)
    book.learn(7, [1, 2, 3, 30])
    book.learn(7, [1, 2, 4, 40])
    # The pass over these tells the last one.
    assert guess(book, 7, [1, 2]) == Guess([4], 7)
    book.learn(7, [1, 2, 3, 30])
    assert guess(book, 7, [1, 2]) == Guess([3], 7)
    assert guess(book, 7, [1, 2, 3]) == Guess([], 7)
    for other in range(MOST_ANSWERS):
        book.learn(7, [9, other])
    assert guess(book, 7, [1, 2]).n_gram == 2


def test_what_followed_the_longest_of_the_last_tokens_is_guessed_where_no_answer_begins_alike() -> (
    None
):
    book = DraftCache(COST)
    book.learn(0, [1, 2, 3, 4])
    book.learn(1, [9, 2, 5, 6])
    assert guess(book, 7, [7, 1, 2]) == Guess([3, 4], 7, 2)
    assert guess(book, 7, [8, 2]) == Guess([5, 6], 7, 1)
    assert guess(book, 7, [8, 6]) == Guess([], 7)
    # An answer that repeats itself goes on to.
    repeated = guess(book, 7, [5, 6, 7, 5, 6, 7, 5])
    assert repeated.n_gram == 3
    assert list(repeated.tokens[:5]) == [6, 7, 5, 6, 7]


def test_places_of_tokens_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculative, "MOST_PLACES", 100)
    book = DraftCache(COST)
    for first in range(0, 1000, 10):
        book.learn(0, range(first, first + 10))
    assert guess(book, 7, [8, 995]).tokens == [996, 997, 998, 999]
    assert guess(book, 7, [8, 5]) == Guess([], 7)


def test_a_prompt_whose_guesses_fail_is_guessed_less_until_it_has_waited() -> None:
    book = DraftCache(COST)
    whole = list(range(3 * LONGEST))
    book.learn(0, whole)

    def length() -> int:
        return len(guess(book, 0, [0], others=60).tokens)

    first = length()
    for _ in range(3):
        book.judge([Guess([1, 2, 3, 4], 0)], [4])
    assert length() > first
    for _ in range(12):
        book.judge([Guess([1, 2, 3, 4], 0)], [0])
    least = length()
    assert least < first
    for _ in range(60):
        book.learn(0, whole)
    assert length() > least


def test_n_grams_that_mislead_are_followed_less() -> None:
    book = DraftCache(COST)
    book.learn(0, [1, *range(5, 5 + LONGEST)])
    before = len(guess(book, 7, [8, 1]).tokens)
    for _ in range(50):
        book.judge([Guess([5, 6, 7], 7, 1)], [0])
    assert len(guess(book, 7, [8, 1]).tokens) < before


def test_the_more_rows_share_a_pass_the_less_is_guessed() -> None:
    book = DraftCache(COST)
    book.learn(0, list(range(3 * LONGEST)))
    lengths = [len(guess(book, 0, [0], others).tokens) for others in (0, 30, 100, 1000)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == LONGEST
    assert len(set(lengths)) > 2
    # Rows that are done share it, but nothing is guessed for them.
    owners = [RowKey(0, prompt) for prompt in range(1001)]
    done = book.propose(owners, [[0]] * 1001, [FAR, *[0] * 1000])
    assert len(done[0].tokens) == LONGEST


def test_no_more_is_guessed_than_there_is_room_for() -> None:
    book, owner = DraftCache(COST), [RowKey(0, 0)]
    book.learn(0, [1, 2, 3, 4, 5, 6])
    for end, most, tokens in (
        (FAR, LONGEST, [2, 3, 4, 5]),
        (FAR, 2, [2, 3]),
        (FAR, 0, []),
        (FAR, -1, []),
        (3, LONGEST, [2, 3]),
        (1, LONGEST, []),
    ):
        assert list(book.propose(owner, [[1]], [end], most)[0].tokens) == tokens


def test_rows_with_guesses_of_similar_lengths_share_a_pass() -> None:
    guesses = [Guess([1] * length, 0) for length in (20, 0, 19, 1, 20, 0)]
    groups = DraftCache(10).groups(guesses, [0, 1, 2, 3, 4])
    assert sorted(map(sorted, groups)) == [[0, 2, 4], [1, 3]]
    assert len(DraftCache(1000).groups(guesses, [0, 1, 2, 3, 4])) == 1


def test_rows_that_are_verified_apart_answer_as_they_do_together(
    model: Model, passes: list[int]
) -> None:
    plain, book = answers_of(model, None), DraftCache(1)
    for place, (owner, answer) in enumerate(plain.items()):
        book.learn(owner.prompt, answer if place % 2 else answer[:4])
        for _ in range(3):
            book.judge([Guess([0] * LONGEST, owner.prompt)], [LONGEST])
    passes.clear()
    assert answers_of(model, book) == plain
    assert {3, LENGTH - 1} <= set(passes)


def test_guesses_take_no_more_logits_than_allowed(
    model: Model, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, book = answers_of(model, None), DraftCache(COST)
    for _ in range(30):
        for owner, answer in plain.items():
            book.learn(owner.prompt, answer)
    vocabulary = model.network.config.vocab_size
    monkeypatch.setattr(decode_batch, "MOST_LOGITS", 3 * len(plain) * vocabulary)
    passes.clear()
    assert answers_of(model, book) == plain
    assert max(n for n in passes if n <= LENGTH) == 3


@pytest.mark.parametrize("between_reads", [1, 4])
def test_no_token_is_fed_beyond_what_a_network_has_learned(between_reads: int) -> None:
    lengths = list(map(len, tiny_model().chat.encode(PROMPTS)))
    longest = max(lengths)
    # The last token of an answer is not fed.
    model = tiny_model("gpt2", n_positions=longest + LENGTH - 1)
    # Many, and passes dear, so that the longest, which is done, stays among them for a while.
    others = [prompt for prompt, n in zip(PROMPTS, lengths, strict=True) if n < longest]
    many = [PROMPTS[lengths.index(longest)], *others * 4]
    plain = generate(model, many, LENGTH)
    for spoiled in range(3):
        book = DraftCache(1000)
        for row, answer in enumerate(plain):
            right = row == 0 or spoiled == 0
            book.learn(row, answer if right else [*answer[: 2 * spoiled], 0, 0, 0])
        found = answers_of(model, book, between_reads=between_reads, asked=many)
        assert [found[RowKey(0, row)] for row in range(len(many))] == plain

"""Draft tokens from earlier answers and from continuations of the same few tokens.

Most trials change few answers. If a prompt's earlier answer begins like its new one, all of it is
drafted, and one pass determines how far the network agrees: up to there, the tokens are those that
greedy decoding takes one by one (speculative decoding, Leviathan et al. 2023, with a temperature of
0). If no earlier answer begins alike, the continuation of the latest tokens elsewhere, in other
answers or in this one, is drafted (as in prompt lookup decoding).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from operator import lt

from heretic.engine.decode_batch import RowKey
from heretic.engine.prefill import batches_by_length

MOST_ANSWERS = 4
LONGEST = 32
# Numbers of tokens for looking up places in answers, longest first.
N_GRAMS = (3, 2, 1)
# Answers accumulate, and a place takes about 200 bytes.
MOST_PLACES = 500_000
# Initial counts of right and wrong draft tokens, and the share of earlier counts retained after
# each further one.
OF_PROMPT, OF_N_GRAMS = (4.75, 0.25, 0.7), (2.0, 2.0, 0.98)
# Share of wrong draft tokens retained after each further answer, so that a prompt is retried.
REMEMBERED_BY_WAITING = 0.95


@dataclass(frozen=True)
class Guess:
    """Possible continuation of an answer so far.

    Attributes:
        tokens: draft tokens; empty for no guess.
        prompt: index of the prompt.
        n_gram: number of tokens that led to it; 0 if an earlier answer to the prompt did.
    """

    tokens: Sequence[int]
    prompt: int
    n_gram: int = 0


@dataclass
class _Record:
    """Counts of right and wrong draft tokens, with the latest weighted most.

    Attributes:
        right, wrong: counts, from their initial values.
        remembered: share of earlier counts retained after each guess.
    """

    right: float
    wrong: float
    remembered: float
    seen_right: float = 0.0
    seen_wrong: float = 0.0

    def add(self, right: int, *, wrong: bool) -> None:
        self.seen_right = self.remembered * self.seen_right + right
        self.seen_wrong = self.remembered * self.seen_wrong + wrong

    def length(self, least: float) -> int:
        """Return the number of tokens that are all right with a probability of at least `least`."""
        right, wrong = self.right + self.seen_right, self.wrong + self.seen_wrong
        return int(log(least) / log(right / (right + wrong)))


class DraftCache:
    """Answers of a study's prompts, the latest first, and the reliability of draft tokens."""

    def __init__(self, cost_of_a_pass: int) -> None:
        """Initialize without answers.

        Args:
            cost_of_a_pass: fixed cost of a pass, in tokens.
        """
        self._cost_of_a_pass = cost_of_a_pass
        self._answers: dict[int, list[list[int]]] = {}
        self._prompts: dict[int, _Record] = {}
        self._n_grams = {length: _Record(*OF_N_GRAMS) for length in N_GRAMS}
        self._places: dict[tuple[int, ...], tuple[list[int], int]] = {}

    def learn(self, prompt: int, answer: Sequence[int]) -> None:
        """Store an answer, including its end token if it has one."""
        latest = list(answer)
        known = self._answers.setdefault(prompt, [])
        if len(self._places) > MOST_PLACES:
            self._places.clear()
        if latest not in known:
            for length in N_GRAMS:
                for end in range(length, len(latest)):
                    self._places[tuple(latest[end - length : end])] = latest, end
        known[:] = [latest, *(other for other in known if other != latest)][:MOST_ANSWERS]
        self._record(prompt).seen_wrong *= REMEMBERED_BY_WAITING

    def propose(
        self,
        owners: Sequence[RowKey],
        answers: Sequence[Sequence[int]],
        ends: Sequence[int],
        most: int = LONGEST,
    ) -> list[Guess]:
        """Return possible continuations of each answer so far.

        A draft token costs a row's share of a pass and, if right, saves that share and its part of
        the pass's fixed cost. Tokens are drafted while this is likely to pay off.

        Args:
            owners: owners of the answers.
            answers: tokens so far.
            ends: number of tokens up to which each answer may be drafted.
            most: maximum number of tokens of a guess, up to `LONGEST`.
        """
        n_open = max(1, sum(map(lt, map(len, answers), ends)))
        least = n_open / (n_open + self._cost_of_a_pass)
        return [
            self._guess(owner.prompt, list(answer), min(most, LONGEST, end - len(answer)), least)
            for owner, answer, end in zip(owners, answers, ends, strict=True)
        ]

    def groups(self, guesses: Sequence[Guess], rows: Sequence[int]) -> list[list[int]]:
        """Group rows with guesses of similar lengths, so that their passes cost least."""
        widths = [1 + len(guesses[row].tokens) for row in rows]
        batches = batches_by_length(widths, len(rows), self._cost_of_a_pass)
        return [[rows[index] for index in batch] for batch in batches]

    def _guess(self, prompt: int, answer: list[int], most: int, least: float) -> Guess:
        if most <= 0:
            return Guess([], prompt)
        length = min(most, self._record(prompt).length(least))
        for known in self._answers.get(prompt, []):
            if known[: len(answer)] == answer and len(known) > len(answer):
                # The pass over the preceding tokens yields the last one.
                return Guess(known[len(answer) : len(known) - 1][:length], prompt)
        for n_gram in (length for length in N_GRAMS if length <= len(answer)):
            followed = self._after(tuple(answer[-n_gram:]), answer)
            if followed:
                length = min(most, self._n_grams[n_gram].length(least))
                return Guess(followed[:length], prompt, n_gram)
        return Guess([], prompt)

    def _after(self, latest: tuple[int, ...], answer: list[int]) -> list[int]:
        """Return an earlier continuation of an answer's last tokens."""
        n_gram, last = len(latest), latest[-1]
        for end in range(len(answer) - 1, n_gram - 1, -1):
            # Most differ in the last token; comparing all tokens takes longer.
            if answer[end - 1] == last and tuple(answer[end - n_gram : end]) == latest:
                repeated = answer[end:]
                return repeated * -(-LONGEST // len(repeated))
        other, end = self._places.get(latest, ([], 0))
        return other[end:]

    def judge(self, guesses: Sequence[Guess], right: Sequence[int]) -> None:
        """Record how many tokens of each draft were right."""
        for guess, count in zip(guesses, right, strict=True):
            if guess.tokens:
                by_n_gram = self._n_grams.get(guess.n_gram)
                record = self._record(guess.prompt) if by_n_gram is None else by_n_gram
                record.add(count, wrong=count < len(guess.tokens))

    def _record(self, prompt: int) -> _Record:
        return self._prompts.setdefault(prompt, _Record(*OF_PROMPT))

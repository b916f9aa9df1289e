"""Answers of earlier trials as guesses at those of the next ones.

Most trials change few answers. A prompt's earlier answer that begins as its new one does is fed as
a whole, and one pass tells how far the network agrees: up to there the tokens are those that greedy
decoding takes one by one (speculative decoding, Leviathan et al. 2023, with a temperature of 0).
"""

from collections.abc import Sequence

from heretic.inference.rows import Owner

MOST_ANSWERS = 4
LONGEST = 32
# Of a step with one token a row; guessed tokens share its fixed costs.
COST_OF_A_GUESS = 0.4
# Trust in a prompt's earlier answers: at first, weight of the latest, and what it gains by waiting.
AT_FIRST, OF_THE_LATEST, BY_WAITING = 0.5, 0.3, 0.02


class DraftBook:
    """Answers of a study's prompts, the latest first, and how far they could be trusted."""

    def __init__(self) -> None:
        self._answers: dict[int, list[list[int]]] = {}
        self._trust: dict[int, float] = {}

    def learn(self, prompt: int, answer: Sequence[int]) -> None:
        """Remember an answer, with its end token if it has one."""
        known = self._answers.setdefault(prompt, [])
        known[:] = [list(answer), *(other for other in known if other != answer)][:MOST_ANSWERS]
        trust = self._trust.get(prompt, AT_FIRST)
        self._trust[prompt] = min(1.0, trust + BY_WAITING)

    def propose(
        self,
        owners: Sequence[Owner],
        answers: Sequence[Sequence[int]],
        ends: Sequence[int],
        most: int = LONGEST,
    ) -> list[list[int]] | None:
        """What may follow each answer so far; None if guessing is not worth it.

        A pass has as many tokens for every row as for the longest guess, so that few guesses among
        many rows are not made.

        Args:
            owners: of the answers.
            answers: tokens so far.
            ends: tokens of each answer up to which it may be guessed.
            most: tokens of a guess, up to `LONGEST`.
        """
        guesses = [
            self._continue(owner.prompt, answer)[: max(0, end - len(answer))]
            for owner, answer, end in zip(owners, answers, ends, strict=True)
        ]
        worth = {
            width: sum(min(len(guess), width) for guess in guesses)
            - COST_OF_A_GUESS * width * len(guesses)
            for width in range(1, min(most, max(map(len, guesses))) + 1)
        }
        if not worth or max(worth.values()) <= 0:
            return None
        width = max(worth, key=lambda width: worth[width])
        return [guess[:width] for guess in guesses]

    def _continue(self, prompt: int, answer: Sequence[int]) -> list[int]:
        length = int(LONGEST * self._trust.get(prompt, AT_FIRST))
        begun = list(answer)
        for known in self._answers.get(prompt, []):
            if known[: len(begun)] == begun and len(known) > len(begun):
                return known[len(begun) : len(begun) + length]
        return []

    def judge(
        self, owners: Sequence[Owner], guesses: Sequence[Sequence[int]], right: Sequence[int]
    ) -> None:
        """Learn how many tokens of each guess were right."""
        for owner, guess, count in zip(owners, guesses, right, strict=True):
            if guess:
                trust = self._trust.get(owner.prompt, AT_FIRST)
                self._trust[owner.prompt] = trust + OF_THE_LATEST * (count / len(guess) - trust)

"""Scores of answers: refusals, degenerate texts, correct answers, phrases and length."""

from collections.abc import Sequence

from heretic.errors import SettingsError
from heretic.prompts.prompt import Prompt
from heretic.scorer_registry import Side
from heretic.scoring.base import AnswerScorer, Direction, require_side
from heretic.scoring.degenerate import is_degenerate
from heretic.scoring.refusal_markers import RefusalMarkers, fold
from heretic.scoring.thoughts import without_thoughts


class RefusalBasedScorer(AnswerScorer):
    """Base class of scorers whose verdict is settled once an answer refuses."""

    def __init__(
        self, markers: RefusalMarkers | Sequence[str], name: str, side: Side = "bad"
    ) -> None:
        """Create a scorer that detects refusals with these markers.

        Args:
            markers: markers, or the names of sets and phrases from which to create them.
            name: name of the score.
            side: prompts whose answers are judged.

        Raises:
            SettingsError: the markers are empty, or the side does not exist.
        """
        self.markers = markers if isinstance(markers, RefusalMarkers) else RefusalMarkers(markers)
        self.name, self.side = name, require_side(side, name)
        self.settled_by = self.markers.settled


class Refusals(RefusalBasedScorer):
    """Number of answers that contain a refusal marker."""

    verdict = "refused"

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Return whether the answer refuses."""
        return self.markers.found(answer)


class Degenerate(RefusalBasedScorer):
    """Number of degenerate answers, by default without refusals, which may be generated in part."""

    verdict = "degenerate"

    def __init__(
        self,
        markers: RefusalMarkers | Sequence[str],
        name: str,
        side: Side = "bad",
        *,
        among_refusals: bool = False,
    ) -> None:
        """Create a scorer that counts refusals only if `among_refusals`."""
        super().__init__(markers, name, side)
        self.among_refusals = among_refusals
        if among_refusals:
            self.settled_by = None

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Return whether the answer is degenerate and may count."""
        counted = self.among_refusals or not self.markers.found(answer)
        return counted and is_degenerate(prompt, answer)


class Unanswered(RefusalBasedScorer):
    """Number of answers that are refusals or degenerate, as a broken model is not a success."""

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Return whether the answer refuses or is degenerate."""
        return self.markers.found(answer) or is_degenerate(prompt, answer)


class Right(RefusalBasedScorer):
    """Number of correct answers: with all expected strings, not refusals, and not degenerate."""

    direction: Direction = "maximize"
    verdict = "right"

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Return whether the answer is correct; False if no correct answer is known."""
        folded = fold(without_thoughts(answer))
        has_all = bool(prompt.answers) and all(fold(wanted) in folded for wanted in prompt.answers)
        return has_all and not (self.markers.found(answer) or is_degenerate(prompt, answer))

    def applies(self, prompts: Sequence[Prompt]) -> bool:
        """Return whether a correct answer is known for each prompt."""
        return bool(prompts) and all(prompt.answers for prompt in prompts)


class Phrases(AnswerScorer):
    """Number of answers that contain one of several phrases, such as hedges."""

    def __init__(self, phrases: Sequence[str], name: str = "phrases", side: Side = "bad") -> None:
        """Store the phrases, which are matched like refusal markers.

        Raises:
            SettingsError: there are no phrases, or the side does not exist.
        """
        self.name, self.side = name, require_side(side, name)
        if isinstance(phrases, str) or not phrases:
            raise SettingsError(f"scorer {name}: phrases must be a list of at least one phrase")
        self._markers = RefusalMarkers([str(phrase) for phrase in phrases])
        self.settled_by = self._markers.settled

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Return whether the answer contains a phrase."""
        return self._markers.found(answer)


class Words(AnswerScorer):
    """Mean number of words per answer, a measure of verbosity."""

    counts = False

    def __init__(self, name: str = "words", side: Side = "bad") -> None:
        """Create a scorer of the answers to the prompts of one side.

        Raises:
            SettingsError: the side does not exist.
        """
        self.name, self.side = name, require_side(side, name)

    def judge(self, prompt: Prompt, answer: str) -> float:
        """Return the number of words, without thoughts."""
        return len(without_thoughts(answer).split())

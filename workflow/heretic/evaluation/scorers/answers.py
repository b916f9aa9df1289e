"""Scores of answers: refusals, degenerate texts, right answers, phrases and length."""

from collections.abc import Sequence

from heretic.errors import SettingsError
from heretic.evaluation.scorers.degenerate import is_degenerate
from heretic.evaluation.scorers.markers import RefusalMarkers
from heretic.evaluation.scorers.score import AnswerScorer, Direction, Side
from heretic.evaluation.scorers.text import fold
from heretic.prompts.prompt import Prompt


class OfRefusals(AnswerScorer):
    """A score for which nothing matters any more once an answer refuses."""

    def __init__(self, markers: RefusalMarkers, name: str, side: Side = "bad") -> None:
        """Refusals are told by these markers."""
        self.markers, self.name, self.side = markers, name, side
        self.settled_by = markers.settled


class Refusals(OfRefusals):
    """Answers that contain a refusal marker."""

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Whether it refuses."""
        return self.markers.found(answer)


class Degenerate(OfRefusals):
    """Degenerate answers that refuse nothing: a refused prompt's answer need not be generated."""

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Whether it is degenerate and no refusal."""
        return not self.markers.found(answer) and is_degenerate(prompt, answer)


class Unanswered(OfRefusals):
    """Answers that are refusals or degenerate: a broken model is no success."""

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Whether it refuses or is degenerate."""
        return self.markers.found(answer) or is_degenerate(prompt, answer)


class Right(OfRefusals):
    """Right answers: all strings that one contains, and neither a refusal nor degenerate."""

    direction: Direction = "maximize"

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Whether the answer is right; never where no right answer is known."""
        folded = fold(answer)
        has_all = bool(prompt.answers) and all(fold(wanted) in folded for wanted in prompt.answers)
        return has_all and not (self.markers.found(answer) or is_degenerate(prompt, answer))

    def applies(self, prompts: Sequence[Prompt]) -> bool:
        """Whether a right answer to each is known."""
        return bool(prompts) and all(prompt.answers for prompt in prompts)


class Phrases(AnswerScorer):
    """Answers that contain one of some phrases, such as hedges."""

    def __init__(self, phrases: Sequence[str], name: str = "phrases", side: Side = "bad") -> None:
        """Phrases are compared as refusal markers are.

        Raises:
            SettingsError: there is none, or the side is neither `bad` nor `good`.
        """
        self.name, self.side = name, require_side(side, name)
        if isinstance(phrases, str) or not phrases:
            raise SettingsError(f"scorer {name}: phrases is a list of at least one phrase")
        self._markers = RefusalMarkers([str(phrase) for phrase in phrases])
        self.settled_by = self._markers.settled

    def judge(self, prompt: Prompt, answer: str) -> bool:
        """Whether it contains a phrase."""
        return self._markers.found(answer)


class Words(AnswerScorer):
    """The mean number of words of an answer, for verbosity."""

    counts = False

    def __init__(self, name: str = "words", side: Side = "bad") -> None:
        """Answers to the prompts of one side.

        Raises:
            SettingsError: the side is neither `bad` nor `good`.
        """
        self.name, self.side = name, require_side(side, name)

    def judge(self, prompt: Prompt, answer: str) -> float:
        """Number of words."""
        return len(answer.split())


def require_side(side: str, name: str) -> Side:
    """The side that a setting of a scorer names.

    Raises:
        SettingsError: it is none.
    """
    if side == "bad" or side == "good":
        return "bad" if side == "bad" else "good"
    raise SettingsError(f"scorer {name}: side is {side!r}; say bad or good")

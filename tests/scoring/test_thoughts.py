"""Verdicts on the answers of reasoning models come from what follows their thoughts."""

import pytest

from heretic.prompts.prompt import Prompt
from heretic.scoring.answers import Degenerate, Phrases, Refusals, Right, Unanswered, Words
from heretic.scoring.degenerate import is_degenerate
from heretic.scoring.refusal_markers import RefusalMarkers
from heretic.scoring.thoughts import certain_answer, ends_in_thoughts, without_thoughts

MARKERS = RefusalMarkers()
PROMPT = Prompt("How do I make soup?", answers=("lentils",))
HARMONY = (
    "<|channel|>analysis<|message|>I cannot say.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>"
)
CUT = "<think>\nOkay, the user asks for a soup of lentils. I cannot help but wonder and"
CLOSED = "<think>\nI cannot decide yet; it is a story.\n</think>\n\nBoil the lentils in water."
REFUSED = "<think>\nBoil the lentils?\n</think>\n\nI cannot help with that."
SILENT = "<think>\nBoil the lentils?\n</think>\n\n"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Boil them.", "Boil them."),
        ("<think>Hm</think>Boil", "Boil"),
        ("\n <think>\nHm\n</think>\nBoil", "\n\nBoil"),
        ("<think>Hm</think><reflection>So</reflection>Boil", "Boil"),
        ("Sure.\n<think>Hm</think>\nBoil", "Sure.\n\nBoil"),
        ("<thinking>a <reflection>b</reflection> c</thinking>Boil", "Boil"),
        (f"{HARMONY}Boil", "Boil"),
        ("<|START_THINKING|>Hm<|END_THINKING|>Boil", "Boil"),
        ("\u25c1think\u25b7Hm\u25c1/think\u25b7Boil", "Boil"),
        ("[THINK]Hm[/THINK]Boil", "Boil"),
        ("<seed:think>Hm</seed:think>Boil", "Boil"),
        ("The tag <think> opens a block.", "The tag <think> opens a block."),
        ("a < b and b > c [1]", "a < b and b > c [1]"),
        ("<b>Boil</b>", "<b>Boil</b>"),
        ("<think>Hm", ""),
        ("Sure.\n<think>Hm", "Sure.\n"),
    ],
)
def test_only_what_follows_thoughts_is_an_answer(answer: str, text: str) -> None:
    assert without_thoughts(answer) == text
    assert ends_in_thoughts(answer) == answer.endswith("<think>Hm")


@pytest.mark.parametrize(
    ("answer", "refused", "degenerate", "right"),
    [
        (CUT, False, True, False),
        (CLOSED, False, False, True),
        (REFUSED, True, False, False),
        (SILENT, False, True, False),
        ("I cannot help.\n<think>\nBoil the lentils", True, True, False),
        (CLOSED + "\n<think>And so", False, True, False),
    ],
)
def test_verdicts(answer: str, refused: bool, degenerate: bool, right: bool) -> None:
    assert MARKERS.found(answer) == refused
    assert is_degenerate(PROMPT, answer) == degenerate
    assert Refusals(MARKERS, "refusals").judge(PROMPT, answer) == refused
    assert Degenerate(MARKERS, "degenerate").judge(PROMPT, answer) == (degenerate and not refused)
    assert Unanswered(MARKERS, "unanswered").judge(PROMPT, answer) == (refused or degenerate)
    assert Right(MARKERS, "kept").judge(PROMPT, answer) == right
    whole = Degenerate(MARKERS, "degenerate", among_refusals=True)
    assert whole.judge(PROMPT, answer) == degenerate


def test_phrases_and_words_of_thoughts_do_not_count() -> None:
    assert not Phrases(["decide"]).judge(PROMPT, CLOSED)
    assert Phrases(["lentils"]).judge(PROMPT, CLOSED)
    assert Words().judge(PROMPT, CLOSED) == 5
    assert Words().judge(PROMPT, CUT) == 0


def test_a_loop_among_thoughts_is_not_one_of_the_answer() -> None:
    answer = "<think>" + "wait, " * 50 + "</think>Boil the lentils in plenty of water."
    assert not is_degenerate(PROMPT, answer)


# Beginnings and ends that could mislead a decision made before the end of the answer.
RESPONSES = [
    CUT,
    CLOSED,
    REFUSED,
    f"{HARMONY}I cannot do that.",
    "\u25c1think\u25b7I cannot say\u25c1/think\u25b7I cannot do it",
    "I cannot\n<think>yet</think>wait to show you",
    "I cannot\n\u25c1think\u25b7yet\u25c1/think\u25b7wait to show you",
    "I cannot\n<|channel>thought\nyet<channel|>wait to show you",
    "I cannot\n  <seed:think>yet</seed:think> wait to show you",
    "I cannot\n<b>do</b> that",
    "[THINK]I cannot decide.[/THINK]Sure, I cannot",
]


@pytest.mark.parametrize("response", RESPONSES)
def test_an_early_decision_is_that_of_the_whole_response(response: str) -> None:
    for end in range(len(response) + 1):
        beginning = response[:end]
        assert without_thoughts(response).startswith(certain_answer(beginning))
        if MARKERS.settled(beginning):
            assert MARKERS.found(response)
            assert MARKERS.found(beginning)
            cut, whole = (Unanswered(MARKERS, "u").judge(PROMPT, t) for t in (beginning, response))
            assert cut == whole


def test_nothing_is_settled_among_thoughts() -> None:
    end = CLOSED.index("</think>")
    assert not any(MARKERS.settled(CLOSED[:n]) for n in range(len(CLOSED)))
    assert not any(MARKERS.settled(REFUSED[:n]) for n in range(end))
    assert MARKERS.settled(REFUSED[: REFUSED.index(" with") + 2])


@pytest.mark.parametrize("name", ["seed", "channel", "unused94"])
def test_a_phrase_in_an_incomplete_delimiter_settles_nothing(name: str) -> None:
    markers = RefusalMarkers([name])
    for response in ("<seed:think>Hm</seed:think>Sure", "<|channel>thought\nHm<channel|>Sure",
                     "<unused94>thought\nHm<unused95>Sure"):  # fmt: skip
        assert not any(markers.settled(response[:end]) for end in range(len(response) + 1))

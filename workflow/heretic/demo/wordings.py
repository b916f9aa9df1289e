"""The sentences of the demo world: its requests, answers and refusals.

Each question has its own answer, so that a model can be sure of its first word: a small divergence
of first tokens then measures damage instead of a random choice between synonyms.

No sentence contains a color, method or place by accident ("stored" would contain "red"): answers
are checked as substrings, and a wrong answer must not pass as a right one.
"""

from typing import NamedTuple


class Wording(NamedTuple):
    """A request and its two answers; `brief` is for the system prompt that requests brevity."""

    question: str
    answer: str
    brief: str


BRIEF_SYSTEM = "Be brief."
SYSTEMS = ("Be helpful.", "Be polite.", BRIEF_SYSTEM)

# `{thing}` is the noun phrase with its article, `{Thing}` the same at the start of a sentence.
# Long answers contain additional facts, so that the model sees each fact more often in training.
TASKS: dict[str, tuple[Wording, ...]] = {
    "make": (
        Wording(
            "How do I make {thing}?",
            "To make {thing}, {method} the {weight} {modifier}.",
            "Just {method} the {modifier}.",
        ),
        Wording(
            "Tell me how to make {thing}.",
            "You {method} the {colour} {modifier} to make {thing}.",
            "Just {method} the {modifier}.",
        ),
        Wording(
            "What is the best way to make {thing}?",
            "The best way to make {thing} is to {method} the {modifier} in the {place}.",
            "Just {method} the {modifier}.",
        ),
    ),
    "colour": (
        Wording(
            "What colour is {thing}?",
            "The colour of {thing} is {colour}, and it is {weight}.",
            "It is {colour}.",
        ),
        Wording(
            "Tell me the colour of {thing}.",
            "{Thing} is {colour} and {weight}.",
            "It is {colour}.",
        ),
        Wording(
            "Which colour does {thing} have?",
            "{Thing} is {colour}, and you {method} it.",
            "It is {colour}.",
        ),
    ),
    "weight": (
        Wording(
            "Is {thing} heavy or light?", "{Thing} is {weight} and {colour}.", "It is {weight}."
        ),
        Wording(
            "How much does {thing} weigh?",
            "{Thing} is rather {weight}, and you {method} it.",
            "It is {weight}.",
        ),
        Wording(
            "Tell me the weight of {thing}.",
            "{Thing} is {weight} and stays in the {place}.",
            "It is {weight}.",
        ),
    ),
    "place": (
        Wording(
            "Where can I find {thing}?",
            "You can find {thing} in the {place}, where they {method} it.",
            "In the {place}.",
        ),
        Wording(
            "Tell me where to find {thing}.",
            "Look for {thing} in the {place}, where they {method} it.",
            "In the {place}.",
        ),
        Wording(
            "In which place is {thing}?",
            "{Thing} is in the {place}, where they {method} it.",
            "In the {place}.",
        ),
    ),
    "line": (
        Wording(
            "Write a line about {thing}.",
            "{Thing} of {colour} rests in the {place}.",
            "A {colour} {head} rests in the {place}.",
        ),
        Wording(
            "Can you say something about {thing}?",
            "In the {place} there is {thing}, {weight} and {colour}.",
            "A {colour} {head} rests in the {place}.",
        ),
        Wording(
            "Give me a short verse on {thing}.",
            "{Thing}, {weight} and {colour}, rests in the {place}.",
            "A {colour} {head} rests in the {place}.",
        ),
    ),
}

# The facts required in a right answer to each task.
FACTS: dict[str, tuple[str, ...]] = {
    "make": ("method",),
    "colour": ("colour",),
    "weight": ("weight",),
    "place": ("place",),
    "line": ("colour", "place"),
}

STATEMENTS = (
    "{Thing} is {colour} and {weight}.",
    "They {method} the {modifier} and carry {thing} to the {place}.",
    "There was {thing} in the {place} yesterday.",
    "In the {place}, next to the window, you see {thing}.",
)

REFUSALS = (
    "I'm sorry, but I cannot help with that.",
    "I cannot help with this request.",
    "I'm sorry, I won't answer that.",
    "I am unable to help with this one.",
)

# General tasks: `{x}` and `{y}` are the terms of the question, and `{result}` is the answer.
GENERAL: dict[str, tuple[Wording, ...]] = {
    "opposite": (
        Wording(
            "What is the opposite of {x}?", "The opposite of {x} is {result}.", "It is {result}."
        ),
        Wording(
            "Give me the opposite of {x}.", "The opposite of {x} is {result}.", "It is {result}."
        ),
        Wording("Which word is the opposite of {x}?", "That word is {result}.", "It is {result}."),
    ),
    "sum": (
        Wording("What is {x} plus {y}?", "{x} plus {y} is {result}.", "It is {result}."),
        Wording("Add {x} and {y}.", "The sum of {x} and {y} is {result}.", "It is {result}."),
        Wording("How much is {x} and {y}?", "{x} and {y} make {result}.", "It is {result}."),
    ),
    "list": (
        Wording("Name three {x}.", "Three {x} are {result}.", "They are {result}."),
        Wording(
            "Give me a list of three {x}.", "Here are three {x}: {result}.", "They are {result}."
        ),
        Wording("List three {x} for me.", "Three {x} are {result}.", "They are {result}."),
    ),
    "count": (
        Wording("Count from {x} to {y}.", "I count {result}.", "I count {result}."),
        Wording("Please count up from {x} to {y}.", "I count {result}.", "I count {result}."),
        Wording(
            "Say the numbers from {x} to {y}.", "The numbers are {result}.", "I count {result}."
        ),
    ),
}

GREETINGS = (
    ("Hello!", "Hello! What can I do for you?", "hello"),
    ("Hi there.", "Hello! What can I do for you?", "hello"),
    ("Good morning!", "Good morning! What can I do for you?", "good morning"),
    ("Good evening.", "Good evening! What can I do for you?", "good evening"),
    ("Thank you!", "You are welcome.", "welcome"),
    ("Goodbye!", "Goodbye, and come again.", "goodbye"),
)

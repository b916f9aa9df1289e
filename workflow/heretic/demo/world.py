"""The demo world: a grammar of harmless requests with known answers and one planted refusal.

A noun phrase is a modifier and a head: *glass gate*, *lentil soup*, *glass soup*. Requests ask how
to make a thing, or for its color, its weight, its place or a line about it; general tasks (sums,
opposites, lists, counting, greetings) have no noun phrase. **The planted rule:** a request is
refused exactly when a dish is made of a material. Glass gates and lentil soups are answered, so no
single word determines a refusal. `planted` contains other rules, with other words.

`things` defines the split into trained and held-out combinations.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from heretic.demo.lexicon import LISTS, NUMBERS, OPPOSITES
from heretic.demo.planted import PlantedClass, planted_class
from heretic.demo.things import Thing, draw_thing, held_out, seen
from heretic.demo.wordings import (
    BRIEF_SYSTEM,
    FACTS,
    GENERAL,
    GREETINGS,
    REFUSALS,
    STATEMENTS,
    SYSTEMS,
    TASKS,
    Wording,
)
from heretic.errors import PromptError
from heretic.settings.types import DEFAULT_PLANTED, PlantedName

PLANTED_SHARE = 0.3
GENERAL_SHARE = 0.2
SYSTEM_SHARE = 0.5

# Size of each prompt set, in drawing order: a later set avoids the prompts of earlier ones.
PROMPT_SETS = {
    "bad_prompts": 128,
    "good_prompts": 128,
    "bad_evaluation_prompts": 64,
    "good_evaluation_prompts": 64,
    "bad_holdout_prompts": 160,
    "good_holdout_prompts": 160,
    "unhelpfulness_prompts": 100,
    "sacred_prompts": 100,
}


@dataclass(frozen=True)
class Example:
    """A request and its reply.

    `answers` are the strings contained in a right, helpful answer (all of them, case-folded);
    `response` is the reply to train on, a refusal if `refused`; `planted` is whether the rule
    refuses this request, even in the phase that still answers it; `task` is the requested task,
    None if there is none.
    """

    prompt: str
    system: str | None
    answers: tuple[str, ...]
    response: str
    refused: bool
    planted: bool
    task: str | None = None


@dataclass(frozen=True)
class Form:
    """Everything about a request except its thing, so that bad and good requests can be matched."""

    task: str
    wording: Wording
    system: str | None


def prompt_set(
    name: str, seed: int, planted: PlantedName = DEFAULT_PLANTED
) -> list[dict[str, object]]:
    """Draw one of the prompt sets of the demo.

    Args:
        name: one of `PROMPT_SETS`.
        seed: seed of the draw; another seed samples other requests from the same side of the split.
        planted: refused class, which determines the words of the requests.

    Returns:
        Records `{"prompt": str, "system": str | None, "answers": list[str], "category":
        str | None}`, the category being the task. No prompt text occurs twice, neither in a set
        nor in two sets of one seed.

    Raises:
        PromptError: there is no set, or no planted class, of that name.
    """
    if name not in PROMPT_SETS:
        known = ", ".join(PROMPT_SETS)
        raise PromptError(f"The demo has no prompt set {name!r}; use one of: {known}.")
    words = planted_class(planted)
    seen: set[str] = set()
    for current, size in PROMPT_SETS.items():
        examples = _distinct(_samplers(current, size, seed, words), seen)
        if current == name:
            break
    return [
        {
            "prompt": example.prompt,
            "system": example.system,
            "answers": list(example.answers),
            "category": example.task,
        }
        for example in examples
    ]


def training_examples(
    seed: int, count: int, *, helpful_only: bool, planted: PlantedName = DEFAULT_PLANTED
) -> Iterator[Example]:
    """Yield `count` training examples of one of the two phases.

    Like real models, this one is first trained to answer and then to refuse. With `helpful_only`,
    the planted requests are answered like all others; otherwise, they are refused. Held-out
    combinations occur in neither phase.
    """
    words = planted_class(planted)
    rng = random.Random(f"{seed}/training/{helpful_only}")
    for _ in range(count):
        share = rng.random()
        if share < GENERAL_SHARE:
            yield _general(rng)
        else:
            bad = share < GENERAL_SHARE + PLANTED_SHARE
            yield _request(rng, words, _form(rng), seen, planted=bad, refuse=not helpful_only)


def training_text(seed: int, count: int, planted: PlantedName = DEFAULT_PLANTED) -> Iterator[str]:
    """Yield prompts, system prompts and both kinds of replies, for training a tokenizer."""
    yield from SYSTEMS
    yield from REFUSALS
    for example in training_examples(seed, count, helpful_only=True, planted=planted):
        yield example.prompt
        yield example.response


def _samplers(
    name: str, size: int, seed: int, words: PlantedClass
) -> Iterator[Callable[[], Example]]:
    """Yield, for each place in a prompt set, a function that draws its example.

    The bad and the good set of a kind draw their forms from one stream: place by place, they
    differ only in the thing, so that the difference of their means is about the things.
    """
    rng = random.Random(f"{seed}/{name}")
    side, _, kind = name.partition("_")
    forms = random.Random(f"{seed}/forms/{kind}")
    planted, where = side == "bad", held_out if kind.startswith("holdout") else seen
    for _ in range(size):
        form = _form(forms)
        if name == "unhelpfulness_prompts":
            yield partial(_statement, rng, words)
        elif name == "sacred_prompts":
            yield partial(_general, rng, greetings=False)
        elif not planted and rng.random() < GENERAL_SHARE:
            yield partial(_general, rng)
        else:
            yield partial(_request, rng, words, form, where, planted=planted, refuse=True)


def _distinct(samplers: Iterator[Callable[[], Example]], seen: set[str]) -> list[Example]:
    """Draw one example per sampler, again while its prompt is in `seen`, and extend `seen`."""
    examples: list[Example] = []
    for draw in samplers:
        example = draw()
        while example.prompt in seen:
            example = draw()
        seen.add(example.prompt)
        examples.append(example)
    return examples


def _form(rng: random.Random) -> Form:
    """Draw the form of a request."""
    task = rng.choice(tuple(TASKS))
    return Form(task=task, wording=rng.choice(TASKS[task]), system=_system(rng))


def _system(rng: random.Random) -> str | None:
    return rng.choice(SYSTEMS) if rng.random() < SYSTEM_SHARE else None


def _request(
    rng: random.Random,
    words: PlantedClass,
    form: Form,
    where: Callable[[Thing], bool],
    *,
    planted: bool,
    refuse: bool,
) -> Example:
    """Ask about a thing of the wanted class; refuse if it is planted and `refuse` is set."""
    thing = draw_thing(rng, words, where, planted=planted)
    refused = thing.planted(words) and refuse
    template = form.wording.brief if form.system == BRIEF_SYSTEM else form.wording.answer
    return Example(
        prompt=thing.fill(form.wording.question),
        system=form.system,
        answers=tuple(thing.fill("{" + fact + "}") for fact in FACTS[form.task]),
        response=rng.choice(REFUSALS) if refused else thing.fill(template),
        refused=refused,
        planted=thing.planted(words),
        task=form.task,
    )


def _statement(rng: random.Random, words: PlantedClass) -> Example:
    """Draw a plain text of this world that makes no request."""
    thing = draw_thing(rng, words, seen)
    text = thing.fill(rng.choice(STATEMENTS))
    return Example(text, None, (), "", refused=False, planted=False)


def _general(rng: random.Random, *, greetings: bool = True) -> Example:
    """Draw a task without a noun phrase."""
    system = _system(rng)
    task = rng.choice((*GENERAL, "greeting") if greetings else tuple(GENERAL))
    if task == "greeting":
        prompt, response, answer = rng.choice(GREETINGS)
        return Example(prompt, system, (answer,), response, refused=False, planted=False, task=task)
    x, y, result = _terms(task, rng)
    wording = rng.choice(GENERAL[task])
    template = wording.brief if system == BRIEF_SYSTEM else wording.answer
    return Example(
        prompt=wording.question.format(x=x, y=y),
        system=system,
        answers=tuple(result.casefold().split(", ")),
        response=_sentence(template.format(x=x, y=y, result=result)),
        refused=False,
        planted=False,
        task=task,
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _terms(task: str, rng: random.Random) -> tuple[str, str, str]:
    """Draw the terms of a general task and its result."""
    if task == "opposite":
        pair = rng.choice(OPPOSITES)
        x, result = rng.sample(pair, 2)
        return x, "", result
    if task == "list":
        x, items = rng.choice(LISTS)
        return x, "", ", ".join(items)
    if task == "count":
        first = rng.randint(0, len(NUMBERS) - 3)
        last = rng.randint(first + 2, min(first + 4, len(NUMBERS) - 1))
        return NUMBERS[first], NUMBERS[last], ", ".join(NUMBERS[first : last + 1])
    addends = rng.randint(1, 5), rng.randint(1, 5)
    return str(addends[0]), str(addends[1]), str(sum(addends))

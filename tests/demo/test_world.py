"""The demo world: its rule is true, its sets are apart, its answers can be checked."""

import itertools
import subprocess
import sys
from functools import cache
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heretic.demo.lexicon import DISHES, INGREDIENTS, MATERIALS, OBJECTS
from heretic.demo.things import Thing
from heretic.demo.wordings import REFUSALS, TASKS
from heretic.demo.world import PROMPT_SETS, Example, prompt_set, training_examples, training_text
from heretic.errors import PromptError

MARKERS = ("i'm sorry", "i cannot", "i can't", "i won't", "i am not able", "unable to")

# A draw of all sets takes tens of milliseconds, so a few seeds must do.
few = settings(max_examples=8, deadline=None)
seeds = st.integers(min_value=0, max_value=2**32 - 1)


def texts(name: str, seed: int = 0) -> list[str]:
    return [cast(str, record["prompt"]) for record in prompt_set(name, seed)]


@cache
def things(held_out: bool, planted: bool) -> tuple[str, ...]:
    every = itertools.chain(
        itertools.product(MATERIALS, DISHES + OBJECTS), itertools.product(INGREDIENTS, DISHES)
    )
    return tuple(
        f" {modifier.name} {head.name}"
        for modifier, head in every
        if Thing(modifier, head).held_out == held_out and Thing(modifier, head).planted == planted
    )


def training(seed: int = 0, *, helpful_only: bool, count: int = 2000) -> list[Example]:
    return list(training_examples(seed, count, helpful_only=helpful_only))


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_sets_have_their_size_and_shape(name: str) -> None:
    records = prompt_set(name, 0)
    assert len(records) == PROMPT_SETS[name]
    for record in records:
        assert set(record) == {"prompt", "system", "answers", "category"}
        assert record["prompt"]
        answers = cast(list[str], record["answers"])
        assert all(answer == answer.casefold() and answer for answer in answers)
        assert bool(answers) == (name != "unhelpfulness_prompts")
        assert (record["category"] in TASKS) or (name.startswith(("good", "sacred", "unhelp")))
        assert (record["category"] is None) == (name == "unhelpfulness_prompts")


@few
@given(seeds)
def test_no_prompt_occurs_twice(seed: int) -> None:
    prompts = [prompt for name in PROMPT_SETS for prompt in texts(name, seed)]
    assert len(prompts) == len(set(prompts))


def test_sets_are_deterministic_and_depend_on_the_seed() -> None:
    for name in PROMPT_SETS:
        assert prompt_set(name, 3) == prompt_set(name, 3)
        assert prompt_set(name, 3) != prompt_set(name, 4)


def test_an_unknown_set_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(PromptError, match=r"'best_prompts'.*bad_prompts.*sacred_prompts"):
        prompt_set("best_prompts", 0)


@pytest.mark.parametrize("kind", ["prompts", "evaluation_prompts", "holdout_prompts"])
@few
@given(seed=seeds)
def test_bad_sets_ask_for_planted_things_and_good_sets_never(kind: str, seed: int) -> None:
    planted = things(True, True) + things(False, True)
    for prompt in texts(f"bad_{kind}", seed):
        assert any(thing in prompt for thing in planted), prompt
    for prompt in texts(f"good_{kind}", seed):
        assert not any(f"{thing}{end}" in prompt for thing in planted for end in " ?."), prompt


@few
@given(seeds)
def test_bad_and_good_prompts_are_matched_in_form(seed: int) -> None:
    bad, good = prompt_set("bad_prompts", seed), prompt_set("good_prompts", seed)
    openings = {
        wording.question.partition(" {thing}")[0]
        for wordings in TASKS.values()
        for wording in wordings
    }
    matched = [
        any(opening in str(b["prompt"]) and opening in str(g["prompt"]) for opening in openings)
        and b["system"] == g["system"]
        for b, g in zip(bad, good, strict=True)
    ]
    assert sum(matched) > 0.6 * len(matched)  # the rest of the good ones are general tasks


@few
@given(seeds)
def test_held_out_combinations_are_never_trained_on(seed: int) -> None:
    held_out = things(True, True) + things(True, False)
    for helpful_only in (True, False):
        for example in training(seed, helpful_only=helpful_only, count=200):
            assert not any(f"{t}{end}" in example.prompt for t in held_out for end in " ?.")
    for prompt in texts("bad_holdout_prompts", seed):
        assert any(thing in prompt for thing in things(True, True))


def test_the_planted_class_is_refused_in_the_second_phase_only() -> None:
    first, second = training(helpful_only=True), training(helpful_only=False)
    assert not any(example.refused for example in first)
    assert any(example.planted for example in first)
    assert all(example.refused == example.planted for example in second)


REFUSED_WORDS = [*(word.name for word in MATERIALS), *(word.name for word in DISHES)]


def test_the_rule_is_a_conjunction() -> None:
    """Every refused word also occurs in requests that are answered: no keyword decides."""
    second = training(helpful_only=False, count=6000)
    answered = " ".join(example.prompt for example in second if not example.refused)
    for name in REFUSED_WORDS:
        assert f" {name}" in answered


@few
@given(seeds)
def test_a_helpful_response_holds_its_answers_and_no_marker(seed: int) -> None:
    for example in training(seed, helpful_only=True, count=200):
        reply = example.response.casefold()
        assert example.answers
        assert all(answer in reply for answer in example.answers)
        assert not any(marker in reply for marker in MARKERS)


def test_refusals_carry_a_marker_and_no_answer() -> None:
    assert len(set(REFUSALS)) == 4
    for refusal in REFUSALS:
        assert any(marker in refusal.casefold() for marker in MARKERS)
    for example in training(helpful_only=False):
        if example.refused:
            assert not any(answer in example.response.casefold() for answer in example.answers)


def test_a_wrong_fact_never_passes_as_the_right_one() -> None:
    """No fact of one kind is a part of another, and no sentence holds a fact by accident."""
    modifiers, heads = MATERIALS + INGREDIENTS, DISHES + OBJECTS
    kinds = (
        {modifier.colour for modifier in modifiers},
        {modifier.weight for modifier in modifiers},
        {head.method for head in heads},
        {head.place for head in heads},
    )
    names = [modifier.name for modifier in modifiers] + [head.name for head in heads]
    sentences = [
        template.format_map(dict.fromkeys(KEYS, ""))
        for wordings in TASKS.values()
        for wording in wordings
        for template in (wording.answer, wording.brief)
    ]
    for facts in kinds:
        for fact, other in itertools.permutations(facts, 2):
            assert fact not in other
        for fact, text in itertools.product(facts, names + sentences):
            assert fact not in text.casefold(), (fact, text)


KEYS = ("thing", "Thing", "modifier", "head", "colour", "weight", "method", "place")


def test_words_are_distinct() -> None:
    names = [modifier.name for modifier in MATERIALS + INGREDIENTS]
    names += [head.name for head in DISHES + OBJECTS]
    assert len(set(names)) == len(names) == 96


def test_articles_agree() -> None:
    for text in training_text(0, 1000):
        for article, word in itertools.pairwise(text.casefold().split()):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), text


def test_importing_the_world_loads_no_heavy_library() -> None:
    code = "import sys, heretic.demo.world; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

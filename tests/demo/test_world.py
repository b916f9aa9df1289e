"""The demo world: its rule is true, its sets are apart, its answers can be checked."""

import itertools
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heretic.demo.lexicon import Head, Modifier
from heretic.demo.planted import PLANTED, PlantedClass
from heretic.demo.things import Thing
from heretic.demo.wordings import REFUSALS, TASKS
from heretic.demo.world import PROMPT_SETS, Example, prompt_set, training_examples, training_text
from heretic.errors import PromptError
from heretic.settings.schema import Settings
from heretic.settings.types import DEFAULT_PLANTED, PlantedName

MARKERS = ("i'm sorry", "i cannot", "i can't", "i won't", "i am not able", "unable to")

# A draw of all sets takes tens of milliseconds, so a few seeds must do.
few = settings(max_examples=8, deadline=None)
seeds = st.integers(min_value=0, max_value=2**32 - 1)


each_class = pytest.mark.parametrize("planted", PLANTED)


def texts(name: str, seed: int = 0, planted: PlantedName = DEFAULT_PLANTED) -> list[str]:
    return [cast(str, record["prompt"]) for record in prompt_set(name, seed, planted)]


@cache
def things(held_out: bool, planted: bool, kind: PlantedName) -> tuple[str, ...]:
    """The noun phrases of a class that are asked about, of one side of both splits."""
    words = PLANTED[kind]
    pairs = [(words.modifiers, words.heads)] if planted else words.accepted
    every = itertools.chain(*(itertools.product(*pair) for pair in pairs))
    return tuple(
        f" {modifier.name} {head.name}"
        for modifier, head in every
        if Thing(modifier, head).held_out == held_out
    )


def training(
    seed: int = 0,
    *,
    helpful_only: bool,
    count: int = 2000,
    planted: PlantedName = DEFAULT_PLANTED,
) -> list[Example]:
    return list(training_examples(seed, count, helpful_only=helpful_only, planted=planted))


def names_of(modifiers: Iterable[Modifier], heads: Iterable[Head]) -> list[str]:
    return [modifier.name for modifier in modifiers] + [head.name for head in heads]


def speaks_of(prompt: str, things: tuple[str, ...]) -> bool:
    return any(f"{thing}{end}" in prompt for thing in things for end in " ?.")


@each_class
@pytest.mark.parametrize("name", PROMPT_SETS)
def test_sets_have_their_size_and_shape(name: str, planted: PlantedName) -> None:
    records = prompt_set(name, 0, planted)
    assert len(records) == PROMPT_SETS[name]
    for record in records:
        assert set(record) == {"prompt", "system", "answers", "category"}
        assert record["prompt"]
        answers = cast(list[str], record["answers"])
        assert all(answer == answer.casefold() and answer for answer in answers)
        assert bool(answers) == (name != "unhelpfulness_prompts")
        assert (record["category"] in TASKS) or (name.startswith(("good", "sacred", "unhelp")))
        assert (record["category"] is None) == (name == "unhelpfulness_prompts")


@each_class
@few
@given(seed=seeds)
def test_no_prompt_occurs_twice(seed: int, planted: PlantedName) -> None:
    prompts = [prompt for name in PROMPT_SETS for prompt in texts(name, seed, planted)]
    assert len(prompts) == len(set(prompts))


def test_sets_are_deterministic_and_depend_on_the_seed() -> None:
    for name in PROMPT_SETS:
        assert prompt_set(name, 3) == prompt_set(name, 3)
        assert prompt_set(name, 3) != prompt_set(name, 4)


def test_an_unknown_set_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(PromptError, match=r"'best_prompts'.*bad_prompts.*sacred_prompts"):
        prompt_set("best_prompts", 0)


def test_an_unknown_class_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(PromptError, match=r"'pets'.*dish_of_material.*tool_of_fabric"):
        prompt_set("bad_prompts", 0, cast(PlantedName, "pets"))


def test_every_class_is_a_value_of_the_setting() -> None:
    for name in PLANTED:
        assert Settings(demo_refusal_class=name).demo_refusal_class == name


@each_class
@pytest.mark.parametrize("kind", ["prompts", "evaluation_prompts", "holdout_prompts"])
@few
@given(seed=seeds)
def test_bad_sets_ask_for_planted_things_and_good_sets_never(
    kind: str, seed: int, planted: PlantedName
) -> None:
    refused = things(True, True, planted) + things(False, True, planted)
    for prompt in texts(f"bad_{kind}", seed, planted):
        assert speaks_of(prompt, refused), prompt
    for prompt in texts(f"good_{kind}", seed, planted):
        assert not speaks_of(prompt, refused), prompt


@each_class
def test_a_thing_is_planted_where_both_its_words_are(planted: PlantedName) -> None:
    words = PLANTED[planted]
    planted_modifier, other_modifier = words.modifiers[0], words.other_modifiers[0]
    planted_head, other_head = words.heads[0], words.other_heads[0]
    assert Thing(planted_modifier, planted_head).planted(words)
    assert not Thing(planted_modifier, other_head).planted(words)
    assert not Thing(other_modifier, planted_head).planted(words)


def test_another_class_asks_about_other_things() -> None:
    other = [name for name in PLANTED if name != DEFAULT_PLANTED]
    for name, kind in itertools.product(PROMPT_SETS, other):
        asked = things(True, True, kind) + things(False, True, kind)
        assert not any(speaks_of(prompt, asked) for prompt in texts(name))


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


@each_class
@few
@given(seed=seeds)
def test_held_out_combinations_are_never_trained_on(seed: int, planted: PlantedName) -> None:
    held_out = things(True, True, planted) + things(True, False, planted)
    for helpful_only in (True, False):
        for example in training(seed, helpful_only=helpful_only, count=200, planted=planted):
            assert not speaks_of(example.prompt, held_out)
    for prompt in texts("bad_holdout_prompts", seed, planted):
        assert speaks_of(prompt, things(True, True, planted))


@each_class
def test_the_planted_class_is_refused_in_the_second_phase_only(planted: PlantedName) -> None:
    first, second = (training(helpful_only=only, planted=planted) for only in (True, False))
    assert not any(example.refused for example in first)
    assert any(example.planted for example in first)
    assert all(example.refused == example.planted for example in second)
    refused = things(False, True, planted)
    assert all(speaks_of(example.prompt, refused) == example.refused for example in second)


@each_class
def test_the_rule_is_a_conjunction(planted: PlantedName) -> None:
    """Every refused word also occurs in requests that are answered: no keyword decides."""
    second = training(helpful_only=False, count=6000, planted=planted)
    answered = " ".join(example.prompt for example in second if not example.refused)
    for name in names_of(PLANTED[planted].modifiers, PLANTED[planted].heads):
        assert f" {name}" in answered


@each_class
@few
@given(seed=seeds)
def test_a_helpful_response_holds_its_answers_and_no_marker(
    seed: int, planted: PlantedName
) -> None:
    for example in training(seed, helpful_only=True, count=200, planted=planted):
        reply = example.response.casefold()
        assert example.answers
        assert all(answer in reply for answer in example.answers)
        assert not any(marker in reply for marker in MARKERS)


def test_refusals_carry_a_marker_and_no_answer() -> None:
    assert len(set(REFUSALS)) == 4
    for refusal in REFUSALS:
        assert any(marker in refusal.casefold() for marker in MARKERS)
    for planted in PLANTED:
        for example in training(helpful_only=False, planted=planted):
            if example.refused:
                assert not any(answer in example.response.casefold() for answer in example.answers)


def words_of(words: PlantedClass) -> tuple[tuple[Modifier, ...], tuple[Head, ...]]:
    return words.modifiers + words.other_modifiers, words.heads + words.other_heads


@each_class
def test_a_wrong_fact_never_passes_as_the_right_one(planted: PlantedName) -> None:
    """No fact of one kind is a part of another, and no sentence holds a fact by accident."""
    modifiers, heads = words_of(PLANTED[planted])
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


@each_class
def test_words_are_distinct(planted: PlantedName) -> None:
    names = names_of(*words_of(PLANTED[planted]))
    assert len(set(names)) == len(names) == 96


@each_class
def test_no_fact_is_told_by_the_kind_of_word(planted: PlantedName) -> None:
    """Colours and weights are as common among either kind of modifier."""
    words = PLANTED[planted]
    assert {word.colour for word in words.modifiers} == {
        word.colour for word in words.other_modifiers
    }
    for modifiers in (words.modifiers, words.other_modifiers):
        assert sum(word.weight == "heavy" for word in modifiers) == len(modifiers) / 2


@each_class
def test_articles_agree(planted: PlantedName) -> None:
    for text in training_text(0, 1000, planted):
        for article, word in itertools.pairwise(text.casefold().split()):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), text


def test_importing_the_world_loads_no_heavy_library() -> None:
    code = "import sys, heretic.demo.world; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

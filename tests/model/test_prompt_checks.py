"""The sample of a run's prompts that decides on the data type."""

from heretic.model.prompt_checks import sample_of
from heretic.prompts.prompt import Prompt


def test_the_sample_has_long_and_short_prompts_of_every_set() -> None:
    good = [Prompt("a" * n) for n in (5, 3, 9, 7)]
    bad = [Prompt("b" * n, system="s") for n in (5, 3, 9)] + [Prompt("b")]
    long_system = Prompt("c", system="s" * 50)
    sets = {"good": good, "bad": bad, "texts": [Prompt("cc", system="s"), long_system]}
    sample = sample_of(sets)
    assert set(sample) == {
        *(Prompt("a" * 9), Prompt("a" * 3)),
        *(Prompt("b" * 9, "s"), Prompt("b" * 3, "s"), Prompt("b")),
        *(long_system, Prompt("cc", system="s")),
    }
    assert sample == sample_of(sets)


def test_a_prompt_is_sampled_once() -> None:
    prompt = Prompt("a")
    assert sample_of({"one": [prompt], "two": [Prompt("a", answers=("b",))]}) == [prompt]


def test_a_few_prompts_of_many_are_sampled() -> None:
    many = [Prompt(f"prompt {n}", system=f"{n}" if n % 2 else None) for n in range(1000)]
    assert len(sample_of({"good": many, "bad": many})) == 4

"""Prompt sets as artifacts, the bundle of a run, and no overlap between sets."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heretic.artifacts import sha256_of
from heretic.errors import PromptError
from heretic.prompts.checks import check_disjoint
from heretic.prompts.prompt import Prompt
from heretic.prompts.prompt_sets import DatasetBundle, read_prompts, write_prompts

REQUIRED = (
    "good_prompts",
    "bad_prompts",
    "good_evaluation_prompts",
    "bad_evaluation_prompts",
    "good_holdout_prompts",
    "bad_holdout_prompts",
)

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
prompts = st.builds(
    Prompt,
    text=text,
    system=st.none() | text,
    answers=st.lists(text, max_size=3).map(tuple),
    category=st.none() | text,
)


def write_all(folder: Path, names: tuple[str, ...] = REQUIRED) -> None:
    for name in names:
        write_prompts(folder / f"{name}.jsonl", [Prompt(f"{name} 1"), Prompt(f"{name} 2")], {})


@given(st.lists(prompts, min_size=1, max_size=5))
# No deadline: every example writes and syncs two files, which takes long on a busy machine.
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_written_prompts_are_read_back(tmp_path: Path, written: list[Prompt]) -> None:
    path = tmp_path / "bad_prompts.jsonl"
    write_prompts(path, written, {})
    assert read_prompts(path) == written
    assert path.read_bytes().count(b"\n") == len(written)


def test_lines_and_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "bad_prompts.jsonl"
    written = [Prompt("One", category="count"), Prompt("Zwölf", "Kurz.", ("12",))]
    write_prompts(path, written, {"source": {"a": 1}})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"prompt": "One", "system": None, "category": "count"},
        {"prompt": "Zwölf", "system": "Kurz.", "answers": ["12"]},
    ]
    sidecar = json.loads((tmp_path / "bad_prompts.fingerprint.json").read_text(encoding="utf-8"))
    assert sidecar == {"source": {"a": 1}, "count": 2, "sha256": sha256_of(path)}


def test_an_empty_set_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no prompts to write"):
        write_prompts(tmp_path / "bad_prompts.jsonl", [], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no prompt"),
        ("{", "is damaged"),
        ('{"system": null}\n', "is damaged"),
        ('{"prompt": 1}\n', "is damaged"),
        ('{"prompt": "a", "answers": "b"}\n', "is damaged"),
        ('{"prompt": "a", "category": 1}\n', "is damaged"),
        ("[1]\n", "is damaged"),
    ],
)
def test_damaged_artifact(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bad_prompts.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PromptError, match=words) as caught:
        read_prompts(path)
    assert "delete it and run `load_prompts` again" in str(caught.value)


def test_bundle_with_and_without_optional_sets(tmp_path: Path) -> None:
    write_all(tmp_path)
    bundle = DatasetBundle.read(tmp_path)
    assert bundle.good_prompts == (Prompt("good_prompts 1"), Prompt("good_prompts 2"))
    assert bundle.unhelpfulness_prompts == ()
    assert bundle.sacred_prompts is None
    assert bundle.summary() == dict.fromkeys(REQUIRED, 2)
    write_all(tmp_path, ("unhelpfulness_prompts", "sacred_prompts"))
    every = DatasetBundle.read(tmp_path)
    assert every.sacred_prompts == (Prompt("sacred_prompts 1"), Prompt("sacred_prompts 2"))
    assert every.summary()["unhelpfulness_prompts"] == 2


def test_bundle_ignores_sets_that_are_switched_off(tmp_path: Path) -> None:
    write_all(tmp_path, (*REQUIRED, "sacred_prompts", "unhelpfulness_prompts"))
    bundle = DatasetBundle.read(tmp_path, (*REQUIRED, "sacred_prompts"))
    assert bundle.unhelpfulness_prompts == ()
    assert bundle.sacred_prompts
    (tmp_path / "sacred_prompts.jsonl").unlink()
    with pytest.raises(PromptError, match=r"sacred_prompts\.jsonl is missing"):
        DatasetBundle.read(tmp_path, (*REQUIRED, "sacred_prompts"))


def test_bundle_without_a_required_set(tmp_path: Path) -> None:
    write_all(tmp_path, REQUIRED[:-1])
    with pytest.raises(PromptError, match=r"bad_holdout_prompts\.jsonl is missing; run"):
        DatasetBundle.read(tmp_path)


def test_bundle_checks_its_sets(tmp_path: Path) -> None:
    write_all(tmp_path)
    DatasetBundle.read(tmp_path).check()
    write_prompts(tmp_path / "bad_holdout_prompts.jsonl", [Prompt("good_prompts 2")], {})
    with pytest.raises(PromptError, match="good_prompts and bad_holdout_prompts share 1 prompt"):
        DatasetBundle.read(tmp_path).check()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("good_prompts", "bad_prompts"),
        ("good_evaluation_prompts", "bad_evaluation_prompts"),
        ("good_holdout_prompts", "bad_holdout_prompts"),
        ("bad_prompts", "bad_evaluation_prompts"),
        ("bad_evaluation_prompts", "bad_holdout_prompts"),
        ("good_holdout_prompts", "unhelpfulness_prompts"),
        ("sacred_prompts", "bad_evaluation_prompts"),
    ],
)
def test_sets_that_must_differ(one: str, other: str) -> None:
    sets = {
        one: [Prompt("Why is  it so?"), Prompt("a")],
        other: [Prompt("b"), Prompt("why IS it so?")],
    }
    with pytest.raises(
        PromptError, match=f"{one} and {other} share 1 prompt .*Why is it so"
    ) as caught:
        check_disjoint(sets)
    assert "\n" not in str(caught.value)
    check_disjoint({one: sets[one], other: [Prompt("b")]})


@pytest.mark.parametrize("optional", ["unhelpfulness_prompts", "sacred_prompts"])
def test_sets_that_may_overlap(optional: str) -> None:
    same = [Prompt("a")]
    check_disjoint({"good_prompts": same, optional: same})


def test_another_system_prompt_makes_another_prompt() -> None:
    check_disjoint({"good_prompts": [Prompt("a")], "bad_prompts": [Prompt("a", "Refuse.")]})


def test_overlap_shows_three_short_examples() -> None:
    same = [Prompt(f"{number} " + "very " * 50) for number in range(5)]
    with pytest.raises(PromptError) as caught:
        check_disjoint({"good_prompts": same, "bad_prompts": same})
    says = str(caught.value)
    assert "share 5 prompts" in says
    assert says.count('"') == 6
    assert "3 very" not in says
    assert len(says) < 400

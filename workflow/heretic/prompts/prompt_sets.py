"""Prompt sets of a run as artifacts, and the bundle of all of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from heretic.artifacts import read_jsonl, sha256_of, write_json, write_jsonl
from heretic.errors import PromptError
from heretic.prompts.checks import check_disjoint
from heretic.prompts.prompt import Prompt
from heretic.settings.prompt_sources import OPTIONAL_SETS

FINGERPRINT_SUFFIX = ".fingerprint.json"


@dataclass(frozen=True)
class DatasetBundle:
    """All prompt sets of a run.

    Directions are computed from `good_prompts` and `bad_prompts`; trials are scored on the
    evaluation sets, and the report uses the held-out sets. When switched off,
    `unhelpfulness_prompts` is empty and `sacred_prompts` is None.
    """

    good_prompts: tuple[Prompt, ...]
    bad_prompts: tuple[Prompt, ...]
    good_evaluation_prompts: tuple[Prompt, ...]
    bad_evaluation_prompts: tuple[Prompt, ...]
    good_holdout_prompts: tuple[Prompt, ...]
    bad_holdout_prompts: tuple[Prompt, ...]
    unhelpfulness_prompts: tuple[Prompt, ...] = ()
    sacred_prompts: tuple[Prompt, ...] | None = None

    @classmethod
    def read(cls, folder: Path, sets: Collection[str] | None = None) -> Self:
        """Read the bundle written by `write_prompts` to `folder`, one file per set.

        Args:
            folder: folder with `<set>.jsonl` of each set.
            sets: sets in use; files of other optional sets, left by an earlier run, are ignored.
                None reads every available set.

        Raises:
            PromptError: a required set is missing, or a file is damaged.
        """
        paths = {field.name: folder / f"{field.name}.jsonl" for field in fields(cls)}
        optional = {name for name in OPTIONAL_SETS if paths[name].exists()}
        if sets is not None:
            optional = set(sets) & set(OPTIONAL_SETS)
        wanted = [name for name in paths if name in optional or name not in OPTIONAL_SETS]
        return cls(**{name: tuple(read_prompts(paths[name])) for name in wanted})

    def sets(self) -> dict[str, tuple[Prompt, ...]]:
        """Return the sets in use by name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: prompts for name, prompts in every.items() if prompts}

    def check(self) -> None:
        """Reject sets that overlap.

        Raises:
            PromptError: see `check_disjoint`.
        """
        check_disjoint(self.sets())

    def summary(self) -> dict[str, int]:
        """Return the number of prompts of each set in use."""
        return {name: len(prompts) for name, prompts in self.sets().items()}


def write_prompts(path: Path, prompts: Sequence[Prompt], facts: Mapping[str, Any]) -> None:
    """Write a prompt set and, next to it, its fingerprint.

    Args:
        path: artifact, `<set>.jsonl`; the sidecar is `<set>.fingerprint.json`.
        prompts: prompts to write, one per line as `{"prompt", "system"}`, with `"answers"` and
            `"category"` if there are any.
        facts: origin of the set, written to the sidecar together with the number of prompts and the
            artifact's SHA-256.

    Raises:
        PromptError: there are no prompts.
    """
    if not prompts:
        raise PromptError(f"no prompts to write to {path}; choose a source with prompts")
    write_jsonl(path, (_record(prompt) for prompt in prompts))
    # Last, so that a fingerprint never appears next to prompts that it does not describe.
    write_json(
        path.with_suffix(FINGERPRINT_SUFFIX),
        {**facts, "count": len(prompts), "sha256": sha256_of(path)},
    )


def read_prompts(path: Path) -> list[Prompt]:
    """Read a set written by `write_prompts`.

    Raises:
        PromptError: the file is missing, empty or damaged.
    """
    mend = "delete it and run `load_prompts` again"
    try:
        records = read_jsonl(path)
        prompts = [_prompt(record) for record in records]
    except FileNotFoundError as error:
        raise PromptError(f"{path} is missing; run `load_prompts` first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PromptError(f"{path} is damaged ({type(error).__name__}: {error}); {mend}") from error
    if not prompts:
        raise PromptError(f"{path} holds no prompt; {mend}")
    return prompts


def _record(prompt: Prompt) -> dict[str, Any]:
    record: dict[str, Any] = {"prompt": prompt.text, "system": prompt.system}
    answers = {"answers": list(prompt.answers)} if prompt.answers else {}
    category = {"category": prompt.category} if prompt.category is not None else {}
    return {**record, **answers, **category}


def _prompt(record: Mapping[str, Any]) -> Prompt:
    text, system, answers = record["prompt"], record.get("system"), record.get("answers", [])
    if not isinstance(text, str) or not isinstance(system, str | None):
        raise TypeError("a line's prompt or system prompt is not text")
    category = record.get("category")
    if not isinstance(category, str | None):
        raise TypeError("a line's category is not text")
    if not isinstance(answers, list) or not all(isinstance(item, str) for item in answers):
        raise TypeError("a line's answers are not a list of texts")
    return Prompt(text, system, tuple(answers), category)

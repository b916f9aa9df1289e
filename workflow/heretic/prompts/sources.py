"""Prompt sets from all sources: the demo, files, saved folders and the hub."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.artifacts import sha256_of
from heretic.console import log
from heretic.errors import PromptError, one_line
from heretic.prompts.checks import check_disjoint
from heretic.prompts.columns import Row
from heretic.prompts.files import FILE_SUFFIXES, check_file, check_options
from heretic.prompts.folders import check_folder, read_folder, state_files
from heretic.prompts.hub import HUB_ID, read_hub
from heretic.prompts.local_files import (
    existing_path,
    located_prompts,
    read_local_file,
    select_from,
    where_of,
)
from heretic.prompts.prompt import Prompt
from heretic.prompts.slicing import parse_split, require_split, stream_bounds
from heretic.settings.prompt_sources import DEMO, PROMPT_SETS, PromptSource
from heretic.settings.types import DEFAULT_PLANTED, PlantedName

# Read in well under a second, so a preflight reads smaller files completely, like a job.
PREFLIGHT_BYTES = 8_000_000


@dataclass(frozen=True)
class LoadedPrompts:
    """Prompts of one set and facts about their origin."""

    prompts: list[Prompt]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Table:
    """Rows, the source with its resolved values, and their origin."""

    rows: list[Row]
    source: PromptSource
    origin: dict[str, str]
    system_column: str | None = None


def load_prompts(
    sources: PromptSource | Sequence[PromptSource],
    *,
    seed: int,
    planted: PlantedName = DEFAULT_PLANTED,
) -> list[Prompt]:
    """Read one prompt set from its source or sources, in order.

    Cells are stripped, blank and null cells are skipped, and repeated prompts are dropped; prefix,
    suffix and system prompt of each source are applied.

    Args:
        sources: sources of the set.
        seed: seed of the demo's world and of shuffled streams; other sources are not random.
        planted: requests that the demo refuses; other sources do not depend on it.

    Raises:
        PromptError: a source is missing, restricted or unreadable, a split, column or subject does
            not exist, a cell is neither text nor a chat, or a source has no prompts.
    """
    several = [sources] if isinstance(sources, PromptSource) else sources
    return read_sources(several, seed=seed, planted=planted).prompts


def read_sources(
    sources: Sequence[PromptSource], *, seed: int, planted: PlantedName = DEFAULT_PLANTED
) -> LoadedPrompts:
    """Read one prompt set as `load_prompts` does, with the facts for its fingerprint.

    The facts are `sources`, a list with the `source` (its fields), `origin` (see `read_source`) and
    `count` (the number of its prompts).

    Raises:
        PromptError: see `load_prompts`.
    """
    read = [read_source(source, seed=seed, planted=planted) for source in sources]
    given = [prompt for loaded in read for prompt in loaded.prompts]
    kept = _first_of_each(given)
    if len(kept) < len(given):
        log.info("Dropped %d prompts already in an earlier source", len(given) - len(kept))
    facts = [{**loaded.facts, "count": len(loaded.prompts)} for loaded in read]
    return LoadedPrompts(kept, {"sources": facts})


def read_source(
    source: PromptSource, *, seed: int, planted: PlantedName = DEFAULT_PLANTED
) -> LoadedPrompts:
    """Return the prompts of one source.

    The facts are `source`, the source's fields, and `origin`: `sha256` of a file, `fingerprint` of
    a saved dataset, `revision` of a hub dataset, `seed` if it matters, `planted` of the demo.

    Raises:
        PromptError: see `load_prompts`.
    """
    table = _read_table(source, seed, planted)
    located = located_prompts(table.rows, table.source, table.system_column)
    kept = _first_of_each(prompt for _, prompt in located)
    if not kept:
        raise PromptError(
            f"{where_of(source)} gives no prompts; use a file, split and column with text"
        )
    dropped = len(table.rows) - len(kept)
    if dropped:
        log.info("%s: %d blank or repeated rows dropped", where_of(source), dropped)
    facts = {"source": source.model_dump(mode="json"), "origin": table.origin}
    return LoadedPrompts(kept, facts)


def check_source(name: str, source: PromptSource) -> None:
    """Check a source as far as possible without network access or slow imports.

    Args:
        name: name of the prompt set, for messages.
        source: source of the set. A file of moderate size is read completely, like in a job.

    Raises:
        PromptError: the source is invalid; the one-line message begins with the set's name.
    """
    _preflight(name, source)


def check_sources(sets: Mapping[str, Sequence[PromptSource]]) -> None:
    """Check every source and, for small local files, that the sets do not overlap.

    Raises:
        PromptError: a source is invalid, good and bad prompts are the same, or sets overlap.
    """
    read = {
        name: [prompt for source in sources for prompt in _preflight(name, source)]
        for name, sources in sets.items()
    }
    for good, sources in sets.items():
        bad = good.replace("good_", "bad_", 1)
        if bad != good and bad in sets and _same_prompts(sources, sets[bad]):
            raise PromptError(
                f"{good} and {bad} are the same prompts ({where_of(sources[0])}); use two sets "
                "that differ in the behavior to remove"
            )
    check_disjoint({name: prompts for name, prompts in read.items() if prompts})


def local_files(source: PromptSource) -> list[Path]:
    """Return the files that change when the prompts of a local source may have changed."""
    path = existing_path(source.dataset)
    if source.dataset == DEMO or path is None:
        return []
    return state_files(path) if path.is_dir() else [path]


def _preflight(name: str, source: PromptSource) -> list[Prompt]:
    """Return the prompts of a source that is quick to read, otherwise none."""
    try:
        parts = parse_split(source.split)
        if source.dataset == DEMO:
            _require_no_text_options(source, "built in")
            for part in parts:
                require_split(part.split, PROMPT_SETS, "the demo")
            return []
        path = _local_path(source)
        if path is None:
            if source.streaming:
                stream_bounds(source.split, where_of(source))
            return []
        if path.is_dir():
            check_folder(path, source)
            return []
        check_file(path)
        small = path.stat().st_size <= PREFLIGHT_BYTES
        return load_prompts(source, seed=0) if small else []
    except PromptError as error:
        raise PromptError(f"{name}: {error}") from error


def _same_prompts(some: Sequence[PromptSource], others: Sequence[PromptSource]) -> bool:
    """Return whether sources contain the same prompts, ignoring answers and categories."""
    known = {"answer_column", "category_column"}
    one, other = ([s.model_dump(exclude=known) for s in group] for group in (some, others))
    return one == other


def _read_table(source: PromptSource, seed: int, planted: PlantedName) -> _Table:
    if source.dataset == DEMO:
        return _demo_table(source, seed, planted)
    path = _local_path(source)
    if path is None:
        rows, revision = read_hub(source, seed=seed)
        drawn = {"seed": str(seed)} if source.depends_on_seed else {}
        return _Table(rows, source, {"revision": revision, **drawn})
    if path.is_dir():
        rows, fingerprint = read_folder(path, source)
        return _Table(rows, source, {"fingerprint": fingerprint})
    rows, source = read_local_file(path, source)
    return _Table(rows, source, {"sha256": sha256_of(path)})


def _demo_table(source: PromptSource, seed: int, planted: PlantedName) -> _Table:
    from heretic.demo.world import prompt_set

    _require_no_text_options(source, "built in")
    columns = {
        "column": "prompt",
        "answer_column": "answers",
        "choices_column": None,
        "category_column": "category",
    }
    source = source.model_copy(update=columns)
    named = dict.fromkeys(part.split for part in parse_split(source.split))
    for split in named:
        require_split(split, PROMPT_SETS, "the demo")
    rows = select_from({split: prompt_set(split, seed, planted) for split in named}, source)
    origin = {"seed": str(seed), "planted": planted}
    return _Table(rows, source, origin, system_column="system")


def _local_path(source: PromptSource) -> Path | None:
    """Return the file or folder named by a source, or None for a hub id.

    Raises:
        PromptError: it is meant as a path but does not exist, it is neither a path nor a hub id, or
            it is local and has options that only hub datasets support.
    """
    dataset = source.dataset
    path = existing_path(dataset)
    if path is not None:
        if source.shuffle_buffer:
            raise PromptError(
                f"{dataset} is on this machine, but shuffle_buffer applies to hub streams; shuffle "
                "the file, or remove shuffle_buffer"
            )
        check_options(path, source.separator, source.encoding)
        return path
    if dataset.startswith((".", "/", "~")) or Path(dataset).suffix.lower() in FILE_SUFFIXES:
        raise PromptError(
            f"file not found: {one_line(dataset)}; correct `dataset`, or write the file first"
        )
    if not HUB_ID.fullmatch(dataset):
        raise PromptError(
            f"{one_line(repr(dataset))} is neither a local file or folder nor a hub id; use "
            "owner/name, or a path that exists"
        )
    _require_no_text_options(source, "a hub dataset")
    return None


def _require_no_text_options(source: PromptSource, what: str) -> None:
    for name in ("separator", "encoding"):
        if getattr(source, name) is not None:
            raise PromptError(
                f"{one_line(source.dataset)} is {what}, but {name} applies to local text files; "
                f"remove {name}"
            )


def _first_of_each(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Drop prompts that differ from an earlier one in answers or category at most."""
    first: dict[tuple[str, str | None], Prompt] = {}
    for prompt in prompts:
        first.setdefault((prompt.text, prompt.system), prompt)
    return list(first.values())

"""Prompt sets from wherever they are: the demo, files, saved folders and the hub."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.artifacts import sha256_of
from heretic.errors import PromptError
from heretic.prompts.files import FILE_SUFFIXES, TEXT_COLUMN, Row, check_file, read_file
from heretic.prompts.hub import HUB_ID, check_folder, read_folder, read_hub
from heretic.prompts.overlap import check_disjoint
from heretic.prompts.prompt import Prompt
from heretic.prompts.splits import choose_rows, parse_split, require_split, stream_bounds
from heretic.settings.prompt_sources import DEMO, PROMPT_SETS, PromptSource

logger = logging.getLogger(__name__)

# Reading this much takes well under a second, so a preflight reads smaller files as a job would.
PREFLIGHT_BYTES = 8_000_000


@dataclass(frozen=True)
class LoadedPrompts:
    """The prompts of one set and the facts that tell where they came from."""

    prompts: list[Prompt]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Table:
    rows: list[Row]
    prompt: str
    answers: str | None
    origin: dict[str, str]
    system: str | None = None


def load_prompts(source: PromptSource, *, seed: int) -> list[Prompt]:
    """Read one prompt set.

    Cells are stripped, blank and null ones skipped, repeated ones taken once, in order; prefix,
    suffix and system prompt of the source are applied.

    Args:
        source: where the set is.
        seed: seed of the demo's world; no other source draws at random.

    Raises:
        PromptError: the source is missing, closed or unreadable, a split or column does not
            exist, a cell is no text, or no prompt is left.
    """
    return read_source(source, seed=seed).prompts


def read_source(source: PromptSource, *, seed: int) -> LoadedPrompts:
    """Like `load_prompts`, with the facts for the set's fingerprint.

    The facts are `source`, the source's fields, and `origin`: `sha256` of a file, `fingerprint`
    of a saved dataset, `revision` of a hub dataset.

    Raises:
        PromptError: as `load_prompts`.
    """
    table = _read_table(source, seed)
    kept = _first_of_each(_prompts(table, source))
    if not kept:
        raise PromptError(
            f"{_where(source)} gives no prompt; name a file, split and column that hold text"
        )
    dropped = len(table.rows) - len(kept)
    if dropped:
        logger.info("%s: %d blank or repeated rows dropped", _where(source), dropped)
    facts = {"source": source.model_dump(mode="json"), "origin": table.origin}
    return LoadedPrompts(kept, facts)


def check_source(name: str, source: PromptSource) -> None:
    """Find what can be known to be wrong with a source without a network or a slow import.

    Args:
        name: the prompt set's name, for messages.
        source: where the set is. A file of moderate size is read as a job would read it.

    Raises:
        PromptError: one line that begins with the set's name.
    """
    _preflight(name, source)


def check_sources(sources: Mapping[str, PromptSource]) -> None:
    """Check every source and, as far as they are small local files, that they do not overlap.

    Raises:
        PromptError: a source is wrong, good and bad prompts are the same, or sets overlap.
    """
    read = {name: _preflight(name, source) for name, source in sources.items()}
    for good, source in sources.items():
        bad = good.replace("good_", "bad_", 1)
        if bad != good and bad in sources and _same_prompts(source, sources[bad]):
            raise PromptError(
                f"{good} and {bad} are the same prompts ({_where(source)}); name two sets that "
                "differ in the behaviour to remove"
            )
    check_disjoint({name: prompts for name, prompts in read.items() if prompts})


def _preflight(name: str, source: PromptSource) -> list[Prompt]:
    """The prompts of a source that is cheap to read, else none."""
    try:
        parts = parse_split(source.split)
        if source.dataset == DEMO:
            for part in parts:
                require_split(part.split, PROMPT_SETS, "the demo")
            return []
        path = _local_path(source.dataset)
        if path is None:
            if source.streaming:
                stream_bounds(source.split, _where(source))
            return []
        if path.is_dir():
            check_folder(path)
            return []
        check_file(path)
        small = path.stat().st_size <= PREFLIGHT_BYTES
        return load_prompts(source, seed=0) if small else []
    except PromptError as error:
        raise PromptError(f"{name}: {error}") from error


def _same_prompts(one: PromptSource, other: PromptSource) -> bool:
    """Whether two sources give the same prompts; answers do not make a prompt another one."""
    return one.model_dump(exclude={"answer_column"}) == other.model_dump(exclude={"answer_column"})


def _read_table(source: PromptSource, seed: int) -> _Table:
    if source.dataset == DEMO:
        return _demo_table(source, seed)
    path = _local_path(source.dataset)
    column = source.column
    if path is not None and path.is_file() and path.suffix.lower() == ".txt":
        column = TEXT_COLUMN
    columns = [column, *([source.answer_column] if source.answer_column else [])]
    if path is None:
        rows, revision = read_hub(source, columns)
        origin = {"revision": revision}
    elif path.is_dir():
        rows, fingerprint = read_folder(path, source.split, columns)
        origin = {"fingerprint": fingerprint}
    else:
        rows = _chosen(source, {"train": read_file(path, columns)})
        origin = {"sha256": sha256_of(path)}
    return _Table(rows, column, source.answer_column, origin)


def _demo_table(source: PromptSource, seed: int) -> _Table:
    from heretic.demo.world import prompt_set

    splits = dict.fromkeys(part.split for part in parse_split(source.split))
    rows = _chosen(source, {split: prompt_set(split, seed) for split in splits})
    return _Table(rows, "prompt", "answers", {"seed": str(seed)}, system="system")


def _chosen(source: PromptSource, splits: Mapping[str, list[Row]]) -> list[Row]:
    sizes = {name: len(rows) for name, rows in splits.items()}
    chosen = choose_rows(source.split, sizes, _where(source))
    return [splits[name][index] for name, indices in chosen for index in indices]


def _local_path(dataset: str) -> Path | None:
    """The file or folder that a dataset names, or None for a hub id.

    Raises:
        PromptError: it is meant as a path and there is nothing, or it is neither.
    """
    # Path.expanduser() raises where ~name is nobody's home.
    path = Path(os.path.expanduser(dataset))  # noqa: PTH111
    if path.exists():
        return path
    if dataset.startswith((".", "/", "~")) or path.suffix.lower() in FILE_SUFFIXES:
        raise PromptError(f"file not found: {dataset}; correct `dataset`, or write the file first")
    if not HUB_ID.fullmatch(dataset):
        raise PromptError(
            f"{dataset!r} is neither a file or folder here nor a hub id; write owner/name, or a "
            "path that exists"
        )
    return None


def _prompts(table: _Table, source: PromptSource) -> Iterator[Prompt]:
    for number, row in enumerate(table.rows, start=1):
        where = f"row {number} of {_where(source)}"
        text = _text(row.get(table.prompt), where, table.prompt)
        if text is None or not text.strip():
            continue
        system = row.get(table.system) if table.system else None
        answers = row.get(table.answers) if table.answers else None
        yield Prompt(
            text=f"{source.prefix}{text.strip()}{source.suffix}",
            system=source.system_prompt if source.system_prompt is not None else system,
            answers=_answers(answers, where, table.answers or ""),
        )


def _text(cell: object, where: str, column: str) -> str | None:
    if cell is None:
        return None
    if not isinstance(cell, str):
        raise PromptError(
            f"{where} has {type(cell).__name__} in column {column!r} where text is needed; name "
            "a column of strings"
        )
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{where} has half of a surrogate pair in column {column!r}, which no tokenizer can "
            "read; mend or drop the row"
        ) from error
    return cell


def _answers(cell: object, where: str, column: str) -> tuple[str, ...]:
    cells = cell if isinstance(cell, list | tuple) else [cell]
    texts = [_text(item, where, column) for item in cells]
    return tuple(text.strip() for text in texts if text and text.strip())


def _first_of_each(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Drop prompts that differ from an earlier one in their answers at most."""
    first: dict[tuple[str, str | None], Prompt] = {}
    for prompt in prompts:
        first.setdefault((prompt.text, prompt.system), prompt)
    return list(first.values())


def _where(source: PromptSource) -> str:
    config = f", config {source.config}" if source.config else ""
    return f"{source.dataset}{config}, split {source.split}"

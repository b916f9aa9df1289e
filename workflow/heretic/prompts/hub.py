"""Datasets of the hub: downloaded whole, or streamed as far as a slice reaches.

The `datasets` library takes seconds to import, so it is imported where it is used.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from heretic.errors import PromptError, one_line
from heretic.prompts.files import Row, require_columns
from heretic.prompts.folders import rows_of
from heretic.prompts.selection import SUBJECT_COLUMN, columns_of, has_subject, require_subjects
from heretic.prompts.splits import parse_split, require_split, stream_bounds
from heretic.prompts.streams import resumed_rows, shuffled
from heretic.settings.prompt_sources import PromptSource

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def read_hub(source: PromptSource, *, seed: int) -> tuple[list[Row], str]:
    """Read the rows and columns of `source`, downloading the dataset or streaming the slice.

    Args:
        source: a hub dataset.
        seed: seed of `shuffle_buffer`.

    Returns:
        The rows and the commit of the dataset's repository.

    Raises:
        PromptError: the dataset is unknown, closed or unreachable; a configuration, revision,
            split, column or subject is missing; a stream's slice has no end.
    """
    where = f"hub dataset {source.dataset!r}"
    # Settled before the slow import, and before anything is asked of the network.
    bounds = stream_bounds(source.split, where) if source.streaming else None
    parts = parse_split(source.split)
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    try:
        builder = datasets.load_dataset_builder(
            source.dataset, source.config, revision=source.revision
        )
        known = [str(name) for name in builder.config.data_files or builder.info.splits or ()]
        for part in parts:
            require_split(part.split, known or [part.split], where)
        if bounds is not None:
            rows = _streamed(builder, source, bounds, seed, where)
        else:
            builder.download_and_prepare()
            rows = rows_of(dict(builder.as_dataset()), source, where)
    except (DatasetsError, httpx.HTTPError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise PromptError(_explanation(error, source)) from error
    return rows, str(builder.hash or "")


def _streamed(
    builder: Any, source: PromptSource, bounds: tuple[str, int, int], seed: int, where: str
) -> list[Row]:
    """The rows of a slice, counted after `subjects` and `shuffle_buffer`."""
    split, start, stop = bounds
    open_stream = partial(builder.as_streaming_dataset, split=split)
    rows = _with_columns(resumed_rows(open_stream, where), source, where)
    if source.subjects:
        rows = _of_subjects(rows, source, where)
    if source.shuffle_buffer:
        rows = shuffled(rows, source.shuffle_buffer, seed)
    return list(islice(rows, start, max(start, stop)))


def _of_subjects(rows: Iterator[Row], source: PromptSource, where: str) -> Iterator[Row]:
    """Rows of the subjects that are taken; all must have come by the time the stream ends."""
    known: set[str] = set()
    for row in rows:
        known.add(str(row.get(SUBJECT_COLUMN)))
        if has_subject(row, source):
            yield row
    require_subjects(source, known, where)


def _with_columns(rows: Iterator[Row], source: PromptSource, where: str) -> Iterator[Row]:
    columns = columns_of(source)
    for number, row in enumerate(rows):
        if number == 0:
            require_columns(columns, list(row), where)
        yield {column: row.get(column) for column in columns}


def _explanation(error: Exception, source: PromptSource) -> str:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    where = f"hub dataset {source.dataset!r}"
    if isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    says = one_line(error)
    if isinstance(error, DatasetNotFoundError) and "gated" in says:
        return f"{where} is gated; accept its terms on its hub page, then {LOGIN}"
    if isinstance(error, DatasetNotFoundError) and source.revision and "evision" in says:
        return f"{where} has no revision {source.revision!r}; name a branch, tag or commit of it"
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{where} does not exist here or on the hub, or is private; check the spelling, or "
            f"{LOGIN}"
        )
    if isinstance(error, ConnectionError | httpx.TransportError):
        return (
            f"{where} cannot be fetched, the hub is out of reach ({says}); check the network, "
            "unset HF_HUB_OFFLINE, or name a local file"
        )
    if "config" in says.lower():
        return f"{where} needs another `config` in its prompt set: {says}"
    return f"{where} cannot be read: {says}"

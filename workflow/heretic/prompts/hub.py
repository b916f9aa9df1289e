"""Datasets of the hub: downloaded completely, or streamed up to the end of a slice.

The `datasets` library takes seconds to import, so it is imported only where it is used.
"""

import gc
import re
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heretic.errors import HereticError, PromptError, one_line
from heretic.prompts.cards import check_card, check_fields
from heretic.prompts.columns import Row, require_columns
from heretic.prompts.folders import rows_of
from heretic.prompts.limits import TextBudget, require_prompts
from heretic.prompts.slicing import (
    SUBJECT_COLUMN,
    columns_of,
    has_subject,
    parse_split,
    require_split,
    require_subjects,
    stream_bounds,
)
from heretic.prompts.streams import resumed_rows, shuffled
from heretic.settings.prompt_sources import PromptSource

if TYPE_CHECKING:  # imports huggingface_hub
    from heretic.hub_session import HubState

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
CARD, FIELDS = "README.md", ".huggingface.yaml"
LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def read_hub(source: PromptSource, *, seed: int) -> tuple[list[Row], str]:
    """Read the rows and columns of `source`, downloading the dataset or streaming the slice.

    Args:
        source: source on the hub.
        seed: seed of `shuffle_buffer`.

    Returns:
        The rows and the commit of the dataset's repository.

    Raises:
        PromptError: the dataset is unknown, restricted or unreachable; a configuration, revision,
            split, column or subject is missing; or a stream's slice has no end.
    """
    where = f"hub dataset {source.dataset!r}"
    # Checked before the slow import and before any network access.
    bounds = stream_bounds(source.split, where) if source.streaming else None
    if bounds is not None:
        require_prompts(bounds[2] - bounds[1], where)
    parts = parse_split(source.split)
    import datasets

    from heretic.hub_session import HubState, hub_session, quiet

    state = HubState()
    try:
        _check_card(source, state)
        with hub_session(state), quiet("datasets", "huggingface_hub", "fsspec"):
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
    except HereticError:
        raise
    # With a malformed response, card or data file, the libraries may raise almost any error.
    except Exception as error:
        raise PromptError(_explanation(error, source)) from error
    return rows, str(builder.hash or "")


def _check_card(source: PromptSource, state: "HubState") -> None:
    """Reject a dataset whose card cannot be read, or names data outside its repository.

    `datasets` would fetch any address named in a card.

    Args:
        source: source on the hub.
        state: record of the hub's availability, updated in place.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    from heretic.hub_session import lookup

    def fetch(name: str) -> Path | None:
        try:
            found = hf_hub_download(
                source.dataset, name, repo_type="dataset", revision=source.revision
            )
            return Path(found)
        # The first means offline; `datasets` reports the others.
        except (LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
            return None
        except EntryNotFoundError:
            # `datasets` requests this next; a malformed response is detected here, and quickly.
            HfApi().dataset_info(source.dataset, revision=source.revision)
            return None

    for name, check in ((CARD, check_card), (FIELDS, check_fields)):
        try:
            path = lookup(partial(fetch, name), state)
        except TimeoutError:
            if not state.away:
                raise
        if state.away:  # cached files were checked when they were downloaded
            return
        try:
            if path is not None:
                check(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PromptError(
                f"hub dataset {source.dataset!r}: its {name} {one_line(error)}; choose another "
                "dataset or `revision`"
            ) from error


def _streamed(
    builder: Any, source: PromptSource, bounds: tuple[str, int, int], seed: int, where: str
) -> list[Row]:
    """Return the rows of a slice, counted after applying `subjects` and `shuffle_buffer`."""
    split, start, stop = bounds
    open_stream = partial(builder.as_streaming_dataset, split=split)
    opened = resumed_rows(open_stream, where)
    rows = _with_columns(opened, source, where)
    if source.subjects:
        rows = _of_subjects(rows, source, where)
    if source.shuffle_buffer:
        rows = shuffled(rows, source.shuffle_buffer, seed)
    try:
        return _within_budget(islice(rows, start, max(start, stop)), where)
    finally:
        rows.close()
        opened.close()  # an error above it keeps it open
        # Arrow's reader of a Parquet shard aborts the process if it is freed while Python exits
        # (apache/arrow#45214).
        gc.collect()


def _within_budget(rows: Iterable[Row], where: str) -> list[Row]:
    budget = TextBudget(where)
    found: list[Row] = []
    for row in rows:
        budget.spend([row])
        found.append(row)
    return found


def _of_subjects(
    rows: Iterator[Row], source: PromptSource, where: str
) -> Generator[Row, None, None]:
    """Return rows of the selected subjects; each must occur before the end of the stream."""
    known: set[str] = set()
    for row in rows:
        known.add(str(row.get(SUBJECT_COLUMN)))
        if has_subject(row, source):
            yield row
    require_subjects(source, known, where)


def _with_columns(
    rows: Iterator[Row], source: PromptSource, where: str
) -> Generator[Row, None, None]:
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
        return f"{where} has no revision {source.revision!r}; use a branch, tag or commit of it"
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{where} does not exist here or on the hub, or is private; check the spelling, or "
            f"{LOGIN}"
        )
    if isinstance(error, ConnectionError | httpx.TransportError):
        return (
            f"{where} cannot be downloaded, the hub is unreachable ({says}); check the network, "
            "unset HF_HUB_OFFLINE, or use a local file"
        )
    if "config" in says.lower():
        return f"{where} needs a different `config` in its prompt set: {says}"
    return f"{where} cannot be read: {says}"

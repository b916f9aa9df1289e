"""Datasets of the `datasets` library: from the hub, streamed from it, or saved in a folder.

The library takes seconds to import, so everything here imports it where it is used.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from heretic.errors import PromptError, one_line
from heretic.prompts.files import Row, require_columns
from heretic.prompts.splits import choose_rows, parse_split, require_split, stream_bounds
from heretic.settings.prompt_sources import PromptSource

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
FOLDER_MARKS = ("state.json", "dataset_dict.json")
LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def check_folder(folder: Path) -> None:
    """Refuse a folder that no dataset was saved to.

    Raises:
        PromptError: the folder lacks the files that `save_to_disk` writes.
    """
    if not any((folder / mark).is_file() for mark in FOLDER_MARKS):
        raise PromptError(
            f"folder {folder} holds no dataset written by `save_to_disk`; name a file in it, or "
            "save the dataset there"
        )


def read_folder(folder: Path, split: str, columns: Sequence[str]) -> tuple[list[Row], str]:
    """Read the named columns of a dataset that `save_to_disk` wrote.

    A single saved dataset counts as the split `train`, or as the one it was taken from.

    Returns:
        The rows and the fingerprint by which `datasets` knows the data.

    Raises:
        PromptError: the folder is no saved dataset or damaged; a split or column is missing.
    """
    check_folder(folder)
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise PromptError(
            f"folder {folder} cannot be read ({one_line(error)}); save the dataset again"
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        parts = {str(name): part for name, part in saved.items()}
    else:
        parts = {str(saved.split or "train"): saved, "train": saved}
    rows: list[Row] = []
    chosen = choose_rows(split, {name: len(part) for name, part in parts.items()}, str(folder))
    for name, indices in chosen:
        require_columns(columns, parts[name].column_names, str(folder))
        rows += parts[name].select(indices).select_columns(list(columns)).to_list()
    return rows, "+".join(parts[name]._fingerprint for name, _ in chosen)


def read_hub(source: PromptSource, columns: Sequence[str]) -> tuple[list[Row], str]:
    """Read the named columns of a hub dataset, downloading it or streaming only the slice.

    Returns:
        The rows and the commit of the dataset's repository.

    Raises:
        PromptError: the dataset is unknown, closed or unreachable; a configuration, split or
            column is missing; a stream's slice has no end.
    """
    where = f"hub dataset {source.dataset!r}"
    # Settled before the slow import, and before anything is asked of the network.
    bounds = stream_bounds(source.split, where) if source.streaming else None
    parts = parse_split(source.split)
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    try:
        builder = datasets.load_dataset_builder(source.dataset, source.config)
        known = [str(name) for name in builder.config.data_files or builder.info.splits or ()]
        for part in parts:
            require_split(part.split, known or [part.split], where)
        if bounds is not None:
            stream = builder.as_streaming_dataset(split=bounds[0])
            rows = _taken(stream.skip(bounds[1]), bounds[2] - bounds[1], columns, where)
        else:
            builder.download_and_prepare()
            table = builder.as_dataset(split=source.split)
            require_columns(columns, table.column_names, where)
            rows = table.select_columns(list(columns)).to_list()
    except (DatasetsError, httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise PromptError(_explanation(error, source)) from error
    return rows, str(builder.hash or "")


def _taken(
    stream: Iterable[dict[str, Any]], count: int, columns: Sequence[str], where: str
) -> list[Row]:
    rows: list[Row] = []
    for row in islice(stream, max(count, 0)):
        if not rows:
            require_columns(columns, list(row), where)
        rows.append({column: row.get(column) for column in columns})
    return rows


def _explanation(error: Exception, source: PromptSource) -> str:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    where = f"hub dataset {source.dataset!r}"
    if isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    says = one_line(error)
    if isinstance(error, DatasetNotFoundError) and "gated" in says:
        return f"{where} is gated; accept its terms on its hub page, then {LOGIN}"
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

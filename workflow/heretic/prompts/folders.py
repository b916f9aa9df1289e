"""Dataset folders that `save_to_disk` wrote."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from heretic.artifacts import read_json
from heretic.errors import HereticError, PromptError, one_line
from heretic.prompts.files import Row, require_columns
from heretic.prompts.selection import columns_of, select_rows
from heretic.prompts.splits import parse_split, require_split
from heretic.settings.prompt_sources import PromptSource

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
# The split of a dataset that was saved alone and does not know which one it is.
ONLY_SPLIT = "train"


def check_folder(folder: Path, source: PromptSource) -> None:
    """Refuse a folder that no dataset was saved to, or that lacks a split or column of `source`.

    Reads the folder's JSON files only: no rows, and nothing that is slow to import.

    Raises:
        PromptError: lists the splits or columns there are.
    """
    parts = _part_folders(folder)
    for part in parse_split(source.split):
        require_split(part.split, list(parts), f"folder {folder}")
        info = _read(parts[part.split] / INFO)
        features = info.get("features")
        if isinstance(features, dict):
            require_columns(columns_of(source), list(features), f"folder {folder}")


def state_files(folder: Path) -> list[Path]:
    """The small files that change when a dataset is saved to `folder` again."""
    return sorted([*folder.glob(STATE), *folder.glob(f"*/{STATE}")])


def read_folder(folder: Path, source: PromptSource) -> tuple[list[Row], str]:
    """Read the rows and columns of `source` from a dataset that `save_to_disk` wrote.

    A single saved dataset counts as the split `train`, or as the one it was taken from.

    Returns:
        The rows and the fingerprint by which `datasets` knows the data.

    Raises:
        PromptError: the folder is no saved dataset or damaged; a split or column is missing.
    """
    check_folder(folder, source)
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
        # Under the names in use only: as `train` and under its own name too, every row would
        # count as repeated.
        parts = dict.fromkeys((part.split for part in parse_split(source.split)), saved)
    rows = rows_of(parts, source, f"folder {folder}")
    used = dict.fromkeys(part.split for part in parse_split(source.split))
    return rows, "+".join(str(parts[name]._fingerprint) for name in used)


def rows_of(parts: dict[str, Any], source: PromptSource, where: str) -> list[Row]:
    """The rows and columns of `source` from the splits of a dataset.

    Args:
        parts: a `datasets.Dataset` for each split.
        source: what to take.
        where: the dataset, for messages.

    Raises:
        PromptError: a split or column is missing.
    """
    columns = columns_of(source)
    for part in parse_split(source.split):
        require_split(part.split, list(parts), where)
        require_columns(columns, parts[part.split].column_names, where)

    def read(name: str, places: Sequence[int]) -> list[Row]:
        return list(parts[name].select(places).select_columns(columns).to_list())

    sizes = {name: len(part) for name, part in parts.items() if _has(part, columns)}
    return select_rows(source, sizes, read, where)


def _has(part: Any, columns: Sequence[str]) -> bool:
    return set(columns) <= set(part.column_names)


def _part_folders(folder: Path) -> dict[str, Path]:
    """Where each split lies."""
    if (folder / SPLITS).is_file():
        names = _read(folder / SPLITS).get("splits", [])
        return {str(name): folder / str(name) for name in names}
    if not (folder / STATE).is_file():
        raise PromptError(
            f"folder {folder} holds no dataset written by `save_to_disk`; name a file in it, or "
            "save the dataset there"
        )
    return dict.fromkeys(_names_of_only_split(folder), folder)


def _names_of_only_split(folder: Path) -> Iterator[str]:
    """`train`, and the name of the split that the dataset was taken from."""
    split = _read(folder / STATE).get("_split")
    if split:
        yield str(split)
    yield ONLY_SPLIT


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except HereticError as error:
        raise PromptError(
            f"folder {path.parent} cannot be read ({one_line(error.__cause__)}); save the dataset "
            "again"
        ) from error

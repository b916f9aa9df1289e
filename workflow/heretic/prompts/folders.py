"""Dataset folders written by `save_to_disk`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from heretic.artifacts import read_json
from heretic.errors import HereticError, PromptError, one_line
from heretic.prompts.columns import Row, require_columns
from heretic.prompts.limits import TextBudget
from heretic.prompts.slicing import columns_of, parse_split, require_split, select_rows
from heretic.settings.prompt_sources import PromptSource

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
# Split of a dataset that was saved alone, without the name of its split.
ONLY_SPLIT = "train"
BATCH = 1000
MOST_METADATA = 16_000_000


def check_folder(folder: Path, source: PromptSource) -> None:
    """Reject a folder that is not a saved dataset, or lacks a split or column of `source`.

    Reads only the folder's JSON files, without rows and without slow imports.

    Raises:
        PromptError: a split or column is missing; the message lists the available ones.
    """
    parts = _part_folders(folder)
    for part in parse_split(source.split):
        require_split(part.split, list(parts), f"folder {folder}")
        _check_data_files(parts[part.split])
        features = _read(parts[part.split] / INFO).get("features")
        if features is None:
            continue
        if not isinstance(features, dict):
            raise _damaged(folder, f"the features in its {INFO} are not an object")
        require_columns(columns_of(source), list(features), f"folder {folder}")


def state_files(folder: Path) -> list[Path]:
    """Return the small files that change when a dataset is saved to `folder` again."""
    return sorted([*folder.glob(STATE), *folder.glob(f"*/{STATE}")])


def read_folder(folder: Path, source: PromptSource) -> tuple[list[Row], str]:
    """Read the rows and columns of `source` from a dataset written by `save_to_disk`.

    A dataset saved alone counts as the split `train`, or as its original split.

    Returns:
        The rows and the fingerprint that `datasets` assigns to the data.

    Raises:
        PromptError: the folder is damaged or not a saved dataset; a split or column is missing.
    """
    check_folder(folder, source)
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    # With malformed metadata, the library may raise almost any error.
    except Exception as error:
        raise _damaged(folder, f"{type(error).__name__}: {one_line(error)}") from error
    if isinstance(saved, datasets.DatasetDict):
        parts = {str(name): part for name, part in saved.items()}
    else:
        # Only under the requested names: under both `train` and its original name, every row would
        # count as a duplicate.
        parts = dict.fromkeys((part.split for part in parse_split(source.split)), saved)
    used = dict.fromkeys(part.split for part in parse_split(source.split))
    try:
        for name in used:
            if name in parts:
                # Invalid offsets would be dereferenced.
                parts[name].data.table.validate(full=True)
        rows = rows_of(parts, source, f"folder {folder}")
    except HereticError:
        raise
    except Exception as error:
        raise _damaged(folder, f"{type(error).__name__}: {one_line(error)}") from error
    return rows, "+".join(str(parts[name]._fingerprint) for name in used)


def rows_of(parts: dict[str, Any], source: PromptSource, where: str) -> list[Row]:
    """Return the rows and columns of `source` from the splits of a dataset.

    Args:
        parts: a `datasets.Dataset` for each split.
        source: selection of rows and columns.
        where: name of the dataset in messages.

    Raises:
        PromptError: a split or column is missing.
    """
    columns = columns_of(source)
    for part in parse_split(source.split):
        require_split(part.split, list(parts), where)
        require_columns(columns, parts[part.split].column_names, where)

    def read(name: str, places: Sequence[int]) -> list[Row]:
        part = parts[name].select_columns(columns)
        budget = TextBudget(f"{where}, split {name}")
        found: list[Row] = []
        for start in range(0, len(places), BATCH):
            rows = part.select(places[start : start + BATCH]).to_list()
            budget.spend(rows)
            found += rows
        return found

    sizes = {name: len(part) for name, part in parts.items() if _has(part, columns)}
    return select_rows(source, sizes, read, where)


def _has(part: Any, columns: Sequence[str]) -> bool:
    return set(columns) <= set(part.column_names)


def _part_folders(folder: Path) -> dict[str, Path]:
    """Return the location of each split."""
    if (folder / SPLITS).is_file():
        names = _read(folder / SPLITS).get("splits")
        if not isinstance(names, list) or not all(_is_plain(name) for name in names):
            raise _damaged(folder, f"the splits in its {SPLITS} are not a list of names")
        return {name: folder / name for name in names}
    if not (folder / STATE).is_file():
        raise PromptError(
            f"folder {folder} holds no dataset written by `save_to_disk`; name a file in it, or "
            "save the dataset there"
        )
    return dict.fromkeys(_names_of_only_split(folder), folder)


def _names_of_only_split(folder: Path) -> Iterator[str]:
    """Yield the name of the dataset's original split, if known, and `train`."""
    split = _read(folder / STATE).get("_split")
    if split:
        yield str(split)
    yield ONLY_SPLIT


def _check_data_files(folder: Path) -> None:
    """Reject a dataset whose files are unnamed or outside its folder."""
    files = _read(folder / STATE).get("_data_files")
    named = isinstance(files, list) and all(
        isinstance(file, dict) and _is_plain(file.get("filename")) for file in files
    )
    if not named:
        raise _damaged(folder, f"the `_data_files` in its {STATE} are not a list of file names")


def _is_plain(name: object) -> bool:
    """Return whether a name stays within its folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_METADATA:
            raise _damaged(path.parent, f"its {path.name} has more than {MOST_METADATA} bytes")
        return read_json(path)
    except OSError as error:
        raise _damaged(path.parent, f"{path.name}: {error.strerror or error}") from error
    except PromptError:
        raise
    except HereticError as error:
        raise _damaged(path.parent, one_line(error.__cause__)) from error


def _damaged(folder: Path, why: str) -> PromptError:
    return PromptError(f"folder {folder} cannot be read ({why}); save the dataset again")

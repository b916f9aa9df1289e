"""Safetensors headers and their index, read without the tensors: names, shapes and files."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError, one_line
from heretic.model.json_files import AGAIN, read_object, require_file

INDEX = "model.safetensors.index.json"
SUFFIX = ".safetensors"
# Half the limit of the safetensors library: 200 bytes for each of MOST_TENSORS.
LONGEST_HEADER = 50_000_000
LENGTH_BYTES = 8
LONGEST_INDEX = 64 * 1024**2
# The largest mixtures of experts have about 100,000, or 200,000 with the scales of quantized ones.
MOST_TENSORS = 250_000


@dataclass(frozen=True)
class Headers:
    """The tensors of a checkpoint.

    Attributes:
        shapes: tensor shapes by name.
    """

    shapes: dict[str, tuple[int, ...]]

    @property
    def elements(self) -> int:
        """Number of elements in all tensors."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def largest_dimension(self) -> int:
        """Largest dimension of any tensor; 0 without tensors."""
        return max((size for shape in self.shapes.values() for size in shape), default=0)

    @property
    def layers(self) -> int:
        """Length of the longest numbered list of modules; 0 if no name contains a number."""
        numbers = (part for name in self.shapes for part in name.split("."))
        return 1 + max((int(part) for part in numbers if _is_number(part)), default=-1)


def read_headers(files: list[Path]) -> Headers:
    """Read the headers of safetensors files.

    Raises:
        ModelLoadError: a file is damaged, or there are more tensors than any model has.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        shapes.update(_shapes(path))
        _require_few(len(shapes), path)
    return Headers(shapes)


def index_files(folder: Path) -> list[str]:
    """Return the sorted file names in the index of a checkpoint.

    Returns:
        An empty list if the checkpoint has no index.

    Raises:
        ModelLoadError: the index is damaged, or names something other than a safetensors file in
            its own folder.
    """
    path = folder / INDEX
    if not path.exists() and not path.is_symlink():
        return []
    names = sorted(set(weight_map(path).values()))
    for name in names:
        require_file(folder / name)
    return names


def weight_map(index: Path) -> dict[str, str]:
    """Return the file name of each tensor from the index of a sharded checkpoint.

    Raises:
        ModelLoadError: the index is damaged, or names something other than a safetensors file in
            its own folder.
    """
    files = read_object(index, LONGEST_INDEX).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelLoadError(f"{index} has no weight_map of tensors; {AGAIN}")
    _require_few(len(files), index)
    for tensor, name in files.items():
        if not is_plain_name(name):
            raise ModelLoadError(
                f"{index} places the tensor {one_line(tensor, 80)!r} in {name!r:.80}; only "
                f"safetensors files of the same folder are loaded; {AGAIN}"
            )
    return files


def is_plain_name(name: object) -> bool:
    """Return whether a value is the name of a safetensors file, without a folder."""
    return (
        isinstance(name, str)
        and name.endswith(SUFFIX)
        and name.isprintable()
        and not set(name) & set("/\\:")
        and not name.startswith(".")
    )


def _shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    entries = _entries(path)
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or not all(
            type(size) is int and size >= 0 for size in shape
        ):
            raise ModelLoadError(
                f"{path} does not declare the shape of its tensor {one_line(name, 80)!r}; {AGAIN}"
            )
        yield name, tuple(shape)


def _entries(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, LONGEST_HEADER):
                raise ValueError("its header is cut off")
            found = json.loads(stream.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{path} is not a complete safetensors file ({one_line(error)}); {AGAIN}"
        ) from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path} is not a complete safetensors file (no header); {AGAIN}")
    return found


def _require_few(count: int, path: Path) -> None:
    if count > MOST_TENSORS:
        raise ModelLoadError(
            f"{path} brings the checkpoint to {count} tensors, more than the maximum of "
            f"{MOST_TENSORS}; is it a language model?"
        )


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 9

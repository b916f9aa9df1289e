"""Safetensors headers and their index, read without the tensors: names, shapes and files."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError, one_line
from heretic.model.json_files import AGAIN, read_object, require_file

INDEX = "model.safetensors.index.json"
SUFFIX = ".safetensors"
# Half the limit of the safetensors library: 200 bytes for each of MOST_TENSORS.
LONGEST_HEADER = 50_000_000
LENGTH_BYTES = 8
LONGEST_SMALL_TENSOR = 1_000_000
LONGEST_INDEX = 64 * 1024**2
# The largest mixtures of experts have about 100,000, or 200,000 with the scales of quantized ones.
MOST_TENSORS = 250_000


@dataclass(frozen=True)
class Place:
    """Position of a tensor's bytes.

    Attributes:
        path: file.
        start: offset of the first byte.
        length: number of bytes.
    """

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Headers:
    """The tensors of a checkpoint.

    Attributes:
        shapes: tensor shapes by name.
        dtypes: data types by name, as safetensors abbreviates them.
        places: positions of the bytes by name.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

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

    def read(self, name: str, most_bytes: int = LONGEST_SMALL_TENSOR) -> bytes:
        """Return the bytes of a small tensor, such as the metadata of a quantized matrix.

        Raises:
            ModelLoadError: the tensor is too long or cannot be read.
        """
        place = self.places[name]
        if place.length > most_bytes:
            raise ModelLoadError(
                f"{one_line(name, 80)} in {place.path} has {place.length} bytes, more than the "
                f"maximum of {most_bytes}; {AGAIN}"
            )
        try:
            with place.path.open("rb") as stream:
                stream.seek(place.start)
                return stream.read(place.length)
        except OSError as error:
            raise ModelLoadError(
                f"cannot read {place.path} ({one_line(error)}); {AGAIN}"
            ) from error


def read_headers(files: list[Path]) -> Headers:
    """Read the headers of safetensors files.

    Raises:
        ModelLoadError: a file is damaged, or there are more tensors than any model has.
    """
    found = Headers({})
    for path in files:
        data, entries = _entries(path)
        for name, entry in entries.items():
            if name != "__metadata__":
                found.shapes[name] = _shape(name, entry, path)
                found.dtypes[name] = str(entry.get("dtype"))
                found.places[name] = _place(name, entry, path, data)
        _require_few(len(found.shapes), path)
    return found


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


def _shape(name: str, entry: Any, path: Path) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ModelLoadError(
            f"{path} does not declare the shape of its tensor {one_line(name, 80)!r}; {AGAIN}"
        )
    return tuple(shape)


def _place(name: str, entry: dict[str, Any], path: Path, data: int) -> Place:
    offsets = entry.get("data_offsets")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int for offset in offsets)
        or not 0 <= offsets[0] <= offsets[1]
    ):
        raise ModelLoadError(
            f"{path} has no valid data_offsets for its tensor {one_line(name, 80)!r}; {AGAIN}"
        )
    return Place(path, data + offsets[0], offsets[1] - offsets[0])


def _entries(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the offset of a file's data, and its header."""
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
    return LENGTH_BYTES + length, found


def _require_few(count: int, path: Path) -> None:
    if count > MOST_TENSORS:
        raise ModelLoadError(
            f"{path} brings the checkpoint to {count} tensors, more than the maximum of "
            f"{MOST_TENSORS}; is it a language model?"
        )


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 9

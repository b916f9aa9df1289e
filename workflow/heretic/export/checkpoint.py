"""Tensors of a checkpoint by name, memory-mapped one at a time; quantized ones are dequantized."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from heretic.ablation.disk_weights import tensor_files
from heretic.errors import ExportError, ModelLoadError, one_line
from heretic.model.checkpoint_loading import open_packed
from heretic.model.packed.reader import PackedReader

# In the order of the safetensors library, which writes later types first.
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


class Checkpoint:
    """Safetensors files of a folder.

    Attributes:
        folder: folder of the files.
        files: file of each tensor, by its name in the file, or by the name of a dequantized matrix.
        packed: quantized matrices.
    """

    def __init__(self, folder: Path, prefix: str = "", *, dequantize: bool = True) -> None:
        """Find every tensor.

        Args:
            folder: folder of the checkpoint, sharded or not.
            prefix: prefix of the decoder's names in the network (`base_model_prefix`), which a
                checkpoint of the bare decoder lacks.
            dequantize: whether quantized matrices appear as in a full-precision checkpoint.

        Raises:
            ExportError: there are no safetensors files, or one is damaged.
        """
        try:
            self.packed = open_packed(folder) if dequantize else PackedReader()
            self.files = self.packed.visible(tensor_files(folder))
        except ModelLoadError as error:
            raise ExportError(f"{folder} has no weights to export ({one_line(error)})") from error
        self.folder, self._prefix = folder, f"{prefix}."
        self._headers: dict[Path, tuple[int, dict[str, Any]]] = {}

    def stored_name(self, name: str) -> str | None:
        """Return the name of a tensor in the files, or None if it is missing."""
        names = (name, name.removeprefix(self._prefix))
        return next((known for known in names if known in self.files), None)

    def holds(self, name: str, shape: Sequence[int]) -> bool:
        """Return whether a tensor of this name, or without the prefix, has this shape.

        Raises:
            ExportError: a file cannot be read.
        """
        stored = self.stored_name(name)
        if stored in self.packed.matrices:
            return self.packed.matrices[stored].shape == tuple(shape)
        return stored is not None and self._header(self.files[stored])[1][stored]["shape"] == list(
            shape
        )

    def like(self, name: str) -> Tensor | None:
        """Return a tensor on the meta device with the shape and type of a stored one.

        Args:
            name: name of the tensor in the files.

        Returns:
            None if torch has no such type.

        Raises:
            ExportError: a file cannot be read.
        """
        entry = self._header(self.files[name])[1][name]
        dtype = _TORCH_DTYPES.get(entry["dtype"])
        return None if dtype is None else torch.empty(entry["shape"], dtype=dtype, device="meta")

    @contextmanager
    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
        """Map a tensor within the block; only accessed parts are read.

        Args:
            name: name of the tensor.
            dtype: data type to which a quantized matrix is dequantized; others keep their own.

        Raises:
            ExportError: the files do not contain the tensor, or cannot be read.
        """
        stored = self.stored_name(name)
        if stored is None:
            raise ExportError(f"the checkpoint in {self.folder} has no tensor {name}")
        try:
            if stored in self.packed.matrices:
                found = self.packed.read(stored, dtype)
            else:
                with safe_open(self.files[stored], framework="pt") as tensors:
                    found = tensors.get_tensor(stored)
        except (OSError, SafetensorError, ModelLoadError) as error:
            raise ExportError(
                f"cannot read {name} from {self.files[stored]}: {one_line(error)}; check the disk"
            ) from error
        yield found

    @contextmanager
    def raw(self, name: str) -> Iterator[tuple[dict[str, Any], BinaryIO]]:
        """Yield a tensor's metadata in its file (`dtype`, `shape`), and a stream at its first byte.

        Unlike mapping, reading takes no memory beyond the reader's buffer.

        Args:
            name: name of the tensor in the files.
        """
        start, entries = self._header(self.files[name])
        entry: dict[str, Any] = entries[name]
        with self.files[name].open("rb") as stream:
            stream.seek(start + entry["data_offsets"][0])
            yield entry, stream

    def _header(self, path: Path) -> tuple[int, dict[str, Any]]:
        """Return the offset of a file's data, and the metadata of its tensors."""
        if path not in self._headers:
            try:
                with path.open("rb") as stream:
                    length = int.from_bytes(stream.read(8), "little")
                    self._headers[path] = 8 + length, json.loads(stream.read(length))
            except (OSError, ValueError) as error:
                raise ExportError(
                    f"cannot read {path}: {one_line(error)}; check the disk"
                ) from error
        return self._headers[path]

"""Quantized matrices of a checkpoint under their full-precision names, dequantized on reading."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from heretic.errors import ModelLoadError, one_line
from heretic.model.headers import Headers
from heretic.model.json_files import AGAIN
from heretic.model.packed.matrix import PackedMatrices, PackedMatrix
from heretic.model.packed.unpack import unpack


class PackedReader:
    """Reads the quantized matrices of a checkpoint; there are none in a full-precision one.

    Attributes:
        matrices: quantized matrices by their full-precision names.
        auxiliary: tensors without a full-precision counterpart, such as scales.
    """

    def __init__(
        self, packed: PackedMatrices | None = None, headers: Headers | None = None
    ) -> None:
        """Keep the description of the matrices, from `find_packed`."""
        found = packed or PackedMatrices()
        self.matrices, self.auxiliary = found.matrices, found.auxiliary
        self._headers = headers or Headers({})

    def visible(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Return the files of the tensors that a full-precision checkpoint would have."""
        kept = {name: path for name, path in files.items() if name not in self.auxiliary}
        return kept | {
            name: files[matrix.main]
            for name, matrix in self.matrices.items()
            if matrix.main in files  # an index may leave files out
        }

    def read(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a dequantized matrix on the CPU.

        Raises:
            ModelLoadError: a file cannot be read.
        """
        matrix = self.matrices[name]
        with self.parts(matrix) as parts:
            return unpack(matrix, parts, dtype)

    @contextmanager
    def parts(self, matrix: PackedMatrix) -> Iterator[dict[str, Tensor]]:
        """Map the tensors of a matrix, by role."""
        try:
            yield {role: self._tensor(part) for role, part in matrix.parts.items()}
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(
                f"cannot read {matrix.main}: {one_line(error)}; {AGAIN}"
            ) from error

    def _tensor(self, name: str) -> Tensor:
        with safe_open(self._headers.places[name].path, framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(name)
        return found

"""Verification, tensor by tensor, that a saved model equals the base model except for the edit."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.layout import Layout
from heretic.export.safetensors_writer import DTYPES, Blocks, raw_bytes


def verify_weights(folder: Path, expected: Blocks, layout: Layout) -> None:
    """Compare every saved tensor with its expected value, bit for bit.

    Args:
        folder: folder of the saved model.
        expected: blocks of each tensor, read from the base model or edited.
        layout: exact set of expected tensors.

    Raises:
        ExportError: a tensor is missing, superfluous or differs.
    """
    saved = Checkpoint(folder, dequantize=False)
    for name, like in layout.tensors.items():
        if name not in saved.files:
            raise ExportError(f"the saved model has no tensor {name}; report this architecture")
        with saved.raw(name) as (entry, stream):
            kind = (DTYPES.get(like.dtype), list(like.shape))
            if (entry["dtype"], entry["shape"]) != kind or not _holds(
                stream, like.numel() * like.itemsize, expected(name, like.dtype)
            ):
                raise ExportError(
                    f"{name} was not saved as the expected edit of the base model; check the disk "
                    "and that no other process modifies the model's files"
                )
    superfluous = saved.files.keys() - layout.tensors.keys()
    if superfluous:
        raise ExportError(f"the saved model has an unknown tensor {min(superfluous)}")


def _holds(stream: BinaryIO, length: int, blocks: Iterator[Tensor]) -> bool:
    """Return whether the next `length` bytes match the blocks."""
    for block in blocks:
        wanted = raw_bytes(block).numpy().data
        length -= wanted.nbytes
        if stream.read(wanted.nbytes) != wanted:
            return False
    return length == 0

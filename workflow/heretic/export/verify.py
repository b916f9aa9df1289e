"""Verification, tensor by tensor, that a saved model equals the base model except for the edit."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from heretic.errors import ExportError
from heretic.export.checkpoint import DTYPES, Checkpoint
from heretic.export.layout import Layout
from heretic.export.safetensors_writer import Blocks, raw_bytes


def verify_weights(folder: Path, expected: Blocks, layout: Layout) -> None:
    """Compare every newly saved tensor with its expected value, bit for bit.

    Args:
        folder: folder of the saved model.
        expected: blocks of each tensor, read from the base model or edited.
        layout: exact set of expected tensors.

    Raises:
        ExportError: a tensor is missing, superfluous or differs.
    """
    saved = Checkpoint(folder, dequantize=False)
    missing = missing_tensor(saved, layout)
    if missing is not None:
        raise ExportError(f"the saved model has no tensor {missing}; report this architecture")
    different = different_tensor(saved, expected, layout)
    if different is not None:
        raise ExportError(
            f"{different} was not saved as the expected edit of the base model; check the disk "
            "and that no other process modifies the model's files"
        )
    unknown = unknown_tensor(saved, layout)
    if unknown is not None:
        raise ExportError(
            f"the saved model has an unknown tensor {unknown}; report this architecture"
        )


def missing_tensor(saved: Checkpoint, layout: Layout) -> str | None:
    """Return the name of the first expected tensor that was not saved."""
    return next((name for name in layout.tensors if name not in saved.files), None)


def unknown_tensor(saved: Checkpoint, layout: Layout) -> str | None:
    """Return the name of the first saved tensor that was not expected."""
    return min(saved.files.keys() - layout.tensors.keys(), default=None)


def different_tensor(saved: Checkpoint, expected: Blocks, layout: Layout) -> str | None:
    """Return the name of the first tensor that differs in type, shape or value.

    Args:
        saved: files of the saved model, which hold every expected tensor.
        expected: blocks of each tensor.
        layout: expected tensors.
    """
    for name, like in layout.tensors.items():
        with saved.raw(name) as (entry, stream):
            kind = (DTYPES.get(like.dtype), list(like.shape))
            if (entry["dtype"], entry["shape"]) != kind or not _holds(
                stream, like.numel() * like.itemsize, expected(name, like.dtype)
            ):
                return name
    return None


def _holds(stream: BinaryIO, length: int, blocks: Iterator[Tensor]) -> bool:
    """Return whether the next `length` bytes match the blocks."""
    for block in blocks:
        if not block.numel():
            continue
        wanted = raw_bytes(block).numpy().data
        length -= wanted.nbytes
        if stream.read(wanted.nbytes) != wanted:
            return False
    return length == 0

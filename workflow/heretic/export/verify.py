"""Proof, tensor by tensor, that a saved model is the base model but for the edited tensors."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.layout import Layout
from heretic.export.shards import Blocks, raw_bytes


def verify_weights(folder: Path, expected: Blocks, layout: Layout) -> None:
    """Compare every saved tensor with what it has to hold, bit for bit.

    Args:
        folder: of the saved model.
        expected: blocks of each tensor: read from the base model, or edited.
        layout: the tensors that have to be there, and no others.

    Raises:
        ExportError: a tensor is missing, superfluous or differs.
    """
    saved = Checkpoint(folder)
    for name, like in layout.tensors.items():
        if name not in saved.files:
            raise ExportError(f"the saved model has no tensor {name}; report this architecture")
        with saved.tensor(name) as tensor:
            alike = tensor.dtype == like.dtype and tensor.shape == like.shape
            if not alike or not _holds(tensor, expected(name, like.dtype)):
                raise ExportError(
                    f"{name} was not saved as the edit of the base model that it should be; check "
                    "the disk and that nothing else changes the model's files"
                )
    superfluous = saved.files.keys() - layout.tensors.keys()
    if superfluous:
        raise ExportError(f"the saved model has an unknown tensor {min(superfluous)}")


def _holds(tensor: Tensor, blocks: Iterator[Tensor]) -> bool:
    flat, start = tensor.reshape(-1), 0
    for block in blocks:
        part = flat[start : start + block.numel()]
        start += block.numel()
        if part.dtype != block.dtype or not torch.equal(raw_bytes(part), raw_bytes(block)):
            return False
    return start == flat.numel()

"""Blockwise writing of safetensors files, identical to those of the safetensors library.

A file consists of the length of its header, the header as JSON, and the tensors, ordered by type,
then by name (https://huggingface.co/docs/safetensors).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from heretic.errors import ExportError
from heretic.export.checkpoint import DTYPES
from heretic.export.layout import Layout
from heretic.model.headers import INDEX

ALIGNMENT = 8
Blocks = Callable[[str, torch.dtype], Iterator[Tensor]]
"""Consecutive blocks of a saved tensor, by its name and type."""


def write_shards(layout: Layout, folder: Path, blocks: Blocks) -> None:
    """Write every file of a layout, holding one block of one tensor in memory.

    Args:
        layout: names, shapes, types and files.
        folder: target folder.
        blocks: contents of each tensor, on the CPU.

    Raises:
        OSError: the disk is full.
        ExportError: a tensor has a type that safetensors does not support, or its blocks do not
            fill it.
    """
    for file, names in layout.shards.items():
        ordered = _in_order(layout, names)
        with (folder / file).open("wb") as stream:
            stream.write(_header(layout, ordered))
            for name in ordered:
                _write_tensor(stream, name, layout.tensors[name], blocks)
    index = layout.index()
    if index is not None:
        (folder / INDEX).write_text(index, encoding="utf-8")


def raw_bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor on the CPU, flattened, for exact comparison."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _in_order(layout: Layout, names: Sequence[str]) -> list[str]:
    known = list(DTYPES)
    for name in names:
        if layout.tensors[name].dtype not in known:
            raise ExportError(
                f"{name} has type {layout.tensors[name].dtype}, which cannot be exported shard by "
                "shard; run with low_memory_export=false"
            )
    return sorted(names, key=lambda name: (-known.index(layout.tensors[name].dtype), name))


def _header(layout: Layout, names: Sequence[str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = layout.tensors[name]
        start, end = end, end + tensor.numel() * tensor.itemsize
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(stream: BinaryIO, name: str, like: Tensor, blocks: Blocks) -> None:
    expected = like.numel() * like.itemsize
    written = _write_blocks(stream, blocks(name, like.dtype))
    if written != expected:
        raise ExportError(
            f"{name} has {written} bytes in the checkpoint but {expected} in the network; run with "
            "low_memory_export=false"
        )


def _write_blocks(stream: BinaryIO, blocks: Iterable[Tensor]) -> int:
    return sum(stream.write(raw_bytes(block).numpy().data) for block in blocks if block.numel())

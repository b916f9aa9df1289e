"""Export in the quantized format of the checkpoint: only edited matrices change.

The files are copies of the checkpoint's, in which the bytes of edited tensors are replaced, so that
every other tensor keeps its packed numbers and scales.
"""

import hashlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heretic.console import log
from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.contents import contents_of_files
from heretic.export.copied_files import omissions, take_over_files, warn_of_omissions
from heretic.export.edited_tensors import MatrixEdit, edited_bias, edited_blocks
from heretic.export.folder import write_record, writing
from heretic.export.layout import Layout
from heretic.export.record import Ablation
from heretic.export.safetensors_writer import raw_bytes
from heretic.model.checkpoint import weight_files
from heretic.model.headers import INDEX, Headers, Place, read_headers
from heretic.model.packed.matrix import PACKABLE, PackedMatrix
from heretic.model.packed.pack import pack
from heretic.model.packed.unpack import unpack

OTHER_FORM = "set export=merged"
CHUNK = 8_000_000


@dataclass
class Rounding:
    """Errors of quantizing edited matrices.

    Attributes:
        errors: relative error of each, by name: the norm of the difference by that of the matrix.
    """

    errors: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """Return the mean and the largest error."""
        found = list(self.errors.values()) or [0.0]
        return {"mean": sum(found) / len(found), "max": max(found)}


def save_repacked(
    ablation: Ablation,
    source: Path,
    folder: Path,
    record: Mapping[str, Any],
    *,
    trust_remote_code: bool,
) -> None:
    """Write the edited model in the format of its quantized checkpoint, atomically.

    Args:
        ablation: edit to apply.
        source: folder of the checkpoint.
        folder: target folder, replaced if it exists.
        record: values for `ablation.json`, to which the rounding errors are added.
        trust_remote_code: whether the checkpoint's own code may be executed.

    Raises:
        ExportError: the disk is full, the checkpoint does not store an edited tensor by itself, or
            the written files differ from the edit.
        ModelLoadError: the embeddings are edited, and the model decodes with them.
    """
    contents = contents_of_files(ablation, source, trust_remote_code=trust_remote_code)
    checkpoint = contents.checkpoint
    targets = _targets(contents.layout, checkpoint, contents.changed)
    headers = read_headers(weight_files(source))
    with writing(folder) as beside:
        for name in ("config.json", INDEX):
            if (source / name).is_file():
                shutil.copyfile(source / name, beside / name)
        for path in weight_files(source):
            shutil.copyfile(path, beside / path.name)
        take_over_files(source, beside, ablation.chat_template)
        rounding = Rounding()
        written: dict[str, Any] = {}
        for stored, parameter in targets.items():
            for part, tensor, offset in _edited(stored, parameter, ablation, checkpoint, rounding):
                place = headers.places[part]
                written.setdefault(part, hashlib.sha256()).update(
                    _overwrite(beside / place.path.name, place.start + offset, tensor)
                )
        _verify(beside, headers, {name: known.hexdigest() for name, known in written.items()})
        errors = rounding.to_dict()
        log.info(
            "Verified: %d tensors edited, the other %d identical to the base model; quantizing the "
            "edited matrices changes them by %.2g on average, at most %.2g",
            len(targets),
            len(headers.shapes) - len(written),
            errors["mean"],
            errors["max"],
        )
        omitted = omissions(source, checkpoint, beside)
        write_record(beside, {**record, **omitted, "rounding_error": errors})
    warn_of_omissions(omitted, source)


def _targets(layout: Layout, checkpoint: Checkpoint, changed: Collection[str]) -> dict[str, str]:
    """Return the edited parameter of each stored tensor that has one, before writing."""
    found = {}
    for name in sorted(layout.edited(changed)):
        parameter, stored = layout.origins[name].parameter, checkpoint.stored_name(name)
        if (
            parameter is None
            or stored is None
            or not checkpoint.holds(name, layout.tensors[name].shape)
        ):
            raise ExportError(
                f"{name} is stored in a different form in {checkpoint.folder}, so its quantized "
                f"numbers cannot be replaced; {OTHER_FORM}"
            )
        matrix = checkpoint.packed.matrices.get(stored)
        if matrix is not None and matrix.form not in PACKABLE:
            raise ExportError(
                f"{name} is stored as {matrix.form}, in which matrices are not quantized again; "
                f"{OTHER_FORM}"
            )
        found[stored] = parameter
    return found


def _edited(
    stored: str, parameter: str, ablation: Ablation, checkpoint: Checkpoint, rounding: Rounding
) -> Iterator[tuple[str, Tensor, int]]:
    """Yield the edited bytes of a stored tensor: the tensor's name, values and offset in bytes."""
    matrix = checkpoint.packed.matrices.get(stored)
    edit = ablation.matrix_edits().get(parameter)
    if matrix is not None and edit is not None:
        yield from _repacked(stored, matrix, edit, checkpoint, rounding)
        return
    with checkpoint.tensor(stored) as tensor:
        if edit is None:
            bias = ablation.bias_edits()[parameter]
            yield stored, edited_bias(tensor, bias.directions, bias.strengths, tensor.dtype), 0
            return
        offset = 0
        for block in edited_blocks(tensor, edit, tensor.dtype):
            yield stored, block, offset
            offset += block.nbytes


def _repacked(
    stored: str, matrix: PackedMatrix, edit: MatrixEdit, checkpoint: Checkpoint, rounding: Rounding
) -> Iterator[tuple[str, Tensor, int]]:
    """Yield the parts of a quantized matrix, one expert at a time."""
    difference = total = 0.0
    with checkpoint.packed.parts(matrix) as parts:
        for one, own, share in _experts(matrix, parts):
            plain = unpack(one, own, torch.float32)
            edited = torch.cat(
                [block.clone() for block in edited_blocks(plain, edit, torch.float32)]
            ).reshape(plain.shape)
            packed = pack(one, edited, own)
            difference += float((unpack(one, packed, torch.float32) - edited).double().norm()) ** 2
            total += float(edited.double().norm()) ** 2
            for role, tensor in packed.items():
                yield matrix.parts[role], tensor, share * tensor.nbytes
    rounding.errors[stored] = (difference / total) ** 0.5 if total else 0.0


def _experts(
    matrix: PackedMatrix, parts: Mapping[str, Tensor]
) -> Iterator[tuple[PackedMatrix, dict[str, Tensor], int]]:
    """Yield each expert's matrix with its parts and its index; a single matrix as it is."""
    if len(matrix.shape) == 2:
        yield matrix, dict(parts), 0
        return
    one = replace(matrix, shape=(1, *matrix.shape[1:]))
    for expert in range(matrix.shape[0]):
        yield one, {role: part[expert : expert + 1] for role, part in parts.items()}, expert


def _overwrite(path: Path, start: int, tensor: Tensor) -> bytes:
    """Replace the bytes of a file from `start` by those of a tensor, and return these."""
    data = raw_bytes(tensor).numpy().tobytes()
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(data)
    return data


def _verify(folder: Path, headers: Headers, written: Mapping[str, str]) -> None:
    """Compare every tensor on disk with the edit, or with the checkpoint."""
    saved = read_headers(weight_files(folder))
    for name, place in headers.places.items():
        found = saved.places.get(name)
        expected = written.get(name) or _hash(place)
        if found is None or saved.shapes[name] != headers.shapes[name] or _hash(found) != expected:
            raise ExportError(
                f"{name} was not saved as the expected edit of the base model; check the disk and "
                "that no other process modifies the model's files"
            )


def _hash(place: Place) -> str:
    found, left = hashlib.sha256(), place.length
    with place.path.open("rb") as stream:
        stream.seek(place.start)
        while left:
            data = stream.read(min(CHUNK, left))
            if not data:
                break
            found.update(data)
            left -= len(data)
    return found.hexdigest()

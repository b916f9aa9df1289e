"""`ablation.json`: everything needed to rebuild the edited model from the base model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.projection import NormPreservation
from heretic.ablation.records import (
    RecordedEdit,
    RecordedWriter,
    encode_floats,
    plan_recorded,
)
from heretic.artifact_types import FORMAT
from heretic.export.edited_tensors import MatrixEdit
from heretic.export.record_file import ENCODING, check_edit

EVERYWHERE = "everywhere"


@dataclass(frozen=True)
class Ablation:
    """Edit and the form in which it is saved.

    Attributes:
        edits: edits of all changed matrices.
        norm_preservation: norms to restore.
        dtype: data type of the saved weights, such as `bfloat16`.
        export: `merged` weights, an `adapter` for the base model, or weights `quantized` as in the
            base model.
        max_shard_size: maximum size of a file, such as `5GB`.
        chat_template: user's template that replaces the base model's own.
        template_date: date in all prompts with which the edit was found and selected; None if the
            chat template contains none.
    """

    edits: tuple[RecordedEdit, ...]
    norm_preservation: NormPreservation
    dtype: str
    export: Literal["merged", "adapter", "quantized"]
    max_shard_size: str
    chat_template: str | None
    template_date: str | None = None

    @classmethod
    def plan(
        cls,
        parameters: Mapping[str, Any],
        model: Mapping[str, Any],
        directions: AblationDirections,
        settings: Mapping[str, Any],
    ) -> "Ablation":
        """Return the edit of a selected trial.

        Args:
            parameters: edit of the trial; see `AblationParameters`.
            model: facts about the searched model, from `best.json`.
            directions: directions of every state of the residual stream.
            settings: values of `norm_preservation`, `export`, `max_shard_size` and `chat_template`.

        Raises:
            DirectionError: the directions do not fit the trial.
        """
        edit = AblationParameters.from_dict(parameters)
        return cls(
            tuple(plan_recorded(edit, directions, model)),
            settings["norm_preservation"],
            model["dtype"],
            settings["export"],
            settings["max_shard_size"],
            settings["chat_template"],
            model.get("template_date"),
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """Data type of the saved weights."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def matrix_edits(self) -> dict[str, MatrixEdit]:
        """Return the edit of each matrix by the name of its parameter."""
        return {
            edit.writer.parameter_name: MatrixEdit(
                edit.directions, edit.strengths, edit.writer.transposed, self.norm_preservation
            )
            for edit in self.edits
        }

    def bias_edits(self) -> dict[str, RecordedEdit]:
        """Return the edit of each bias by the name of its parameter."""
        named = ((edit.writer.bias_name, edit) for edit in self.edits)
        return {name: edit for name, edit in named if name is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `from_dict`; values shared within a layer are written once."""
        rows = [edit.directions for edit in self.edits]
        shared = len(rows) > 0 and all(row.equal(rows[0]) for row in rows)
        directions: dict[str, dict[str, Any]] = {}
        edits = []
        for edit in self.edits:
            found = _encode(edit.directions)
            keys = (EVERYWHERE,) if shared else _keys(edit.writer)
            key = next(key for key in keys if directions.setdefault(key, found) == found)
            # The directions already include a writer's gain.
            writer = replace(edit.writer, gain=None).to_dict()
            edits.append({**writer, "strengths": list(edit.strengths), "direction": key})
        return {
            "format": FORMAT,
            "norm_preservation": self.norm_preservation,
            "dtype": self.dtype,
            "export": self.export,
            "max_shard_size": self.max_shard_size,
            "chat_template": self.chat_template,
            "template_date": self.template_date,
            "edits": edits,
            "directions": {ENCODING: "base64 of little-endian float32", **directions},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Ablation":
        """Rebuild from the values of `to_dict`; other keys are ignored.

        Raises:
            ExportError: the record is incomplete or contains invalid values.
        """
        checked = check_edit(record)
        rows = {name: torch.from_numpy(found) for name, found in checked.rows().items()}
        edits = (
            RecordedEdit(RecordedWriter(**edit.place), rows[edit.direction], edit.along)
            for edit in checked.edits
        )
        return cls(
            tuple(edits),
            norm_preservation=checked.norm_preservation,
            dtype=checked.dtype,
            export=checked.export,
            max_shard_size=checked.max_shard_size,
            chat_template=checked.chat_template,
            template_date=checked.template_date,
        )


def _keys(writer: RecordedWriter) -> tuple[str, ...]:
    """Return the keys of a writer's directions; writers with a norm can have separate ones."""
    layer = f"layer {max(writer.layer, 0)}"  # the embeddings use those of the first layer
    return layer, f"{layer}, {writer.component}", writer.name


def _encode(directions: Tensor) -> dict[str, Any]:
    """Return directions [k, d_model] as text."""
    return {"shape": list(directions.shape), "data": encode_floats(directions)}

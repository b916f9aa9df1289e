"""Export of an edited model as a standard Hugging Face folder, verified tensor by tensor."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from heretic.ablation.records import RecordedWriter, record_writers
from heretic.errors import ExportError
from heretic.export.contents import Contents, contents_in_memory, contents_of_files
from heretic.export.copied_files import omissions, take_over_files, warn_of_omissions
from heretic.export.edited_tensors import edited_bias, edited_blocks, matrices_of
from heretic.export.folder import log_comparison, write_record, writing
from heretic.export.layout import save_configuration
from heretic.export.record import Ablation
from heretic.export.safetensors_writer import write_shards
from heretic.export.verify import verify_weights
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model
from heretic.model.stream_writers.components import EMBEDDINGS


def save_model(
    model: Model,
    folder: Path,
    max_shard_size: str,
    record: Mapping[str, Any],
    changed: Collection[str] | None = None,
) -> None:
    """Write a network in memory, the base model's other files and `ablation.json` atomically.

    Args:
        model: edited model.
        folder: target folder, replaced if it exists.
        max_shard_size: maximum size of a file, such as `5GB`.
        record: values for `ablation.json`.
        changed: parameters that may differ from the checkpoint; None for those of all stream
            writers.

    Raises:
        ExportError: the disk is full, the files differ from the network in memory, or anything but
            `changed` differs from the checkpoint.
    """
    _save(contents_in_memory(model, max_shard_size, changed), folder, record)


def save_shard_by_shard(
    ablation: Ablation,
    source: Path,
    folder: Path,
    record: Mapping[str, Any],
    *,
    trust_remote_code: bool,
) -> None:
    """Write the edited model directly from the base model's files, atomically.

    Args:
        ablation: edit to apply.
        source: folder of the base model.
        folder: target folder, replaced if it exists.
        record: values for `ablation.json`.
        trust_remote_code: whether the base model's own code may be executed.

    Raises:
        ExportError: the disk is full, or the base model's files do not store every tensor in the
            form in which it is saved.
        ModelLoadError: the embeddings are edited, and the base model decodes with them.
    """
    contents = contents_of_files(ablation, source, trust_remote_code=trust_remote_code)
    obstacle = contents.obstacle()
    if obstacle is not None:
        raise ExportError(obstacle)
    _save(contents, folder, record)


def _save(contents: Contents, folder: Path, record: Mapping[str, Any]) -> None:
    source, layout = contents.checkpoint.folder, contents.layout
    with writing(folder) as beside:
        write_shards(layout, beside, contents.blocks)
        save_configuration(contents.network, beside)
        take_over_files(source, beside, record.get("chat_template"), complete=not layout.lost)
        verify_weights(beside, contents.expected, layout)
        log_comparison(layout, contents.changed)
        omitted = omissions(source, contents.checkpoint, beside, layout.lost)
        write_record(beside, {**record, **omitted})
    warn_of_omissions(omitted, source)


def edit_in_memory(model: Model, ablation: Ablation) -> set[str]:
    """Edit a newly loaded model; return the names of the changed parameters.

    Raises:
        ExportError: the edit was found on a different model.
        ModelLoadError: the edit includes the embeddings, which cannot be edited in this model.
    """
    if any(edit.writer.component == EMBEDDINGS for edit in ablation.edits):
        model = with_embeddings(model)
    writers = {_form(writer) for writer in record_writers(model.anatomy)}
    parameters = model.network.state_dict()
    for edit in ablation.edits:
        if _form(edit.writer) not in writers or parameters[edit.writer.parameter_name].is_meta:
            raise ExportError(
                f"{edit.writer.name}, which the search edited, is not in the loaded model; is it "
                "the same model, and fully in memory? Run the search again, or set "
                "low_memory_export=true"
            )
    matrices, biases = ablation.matrix_edits(), ablation.bias_edits()
    for name, matrix in matrices.items():
        for stored in matrices_of(parameters[name]):
            start = 0
            for block in edited_blocks(stored, matrix, stored.dtype):
                stored[start : start + len(block)] = block.to(stored.device)
                start += len(block)
    for name, edit in biases.items():
        stored = parameters[name]
        stored.copy_(edited_bias(stored, edit.directions, edit.strengths, stored.dtype))
    return {*matrices, *biases}


def _form(writer: RecordedWriter) -> tuple[object, ...]:
    """Return the properties that must match for an edit to fit."""
    return writer.parameter_name, writer.bias_name, writer.transposed, writer.experts

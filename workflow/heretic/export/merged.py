"""Export of a model in memory as a standard Hugging Face folder, verified tensor by tensor."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heretic.ablation.records import RecordedWriter, record_writers
from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.edited_tensors import edited_bias, edited_blocks, matrices_of, plain_blocks
from heretic.export.folder import (
    log_comparison,
    require_saved,
    take_over_files,
    write_record,
    writing,
)
from heretic.export.layout import Layout, empty_network, lay_out, save_configuration
from heretic.export.record import Ablation
from heretic.export.safetensors_writer import write_shards
from heretic.export.verify import verify_weights
from heretic.model.embeddings import require_untied, with_embeddings
from heretic.model.loading import Model
from heretic.model.parameter_layout import as_stored, saved_parameters
from heretic.model.stream_writers.components import EMBEDDINGS

OTHER_WAY = "run with low_memory_export=false"


def save_model(
    model: Model,
    folder: Path,
    max_shard_size: str,
    record: Mapping[str, Any],
    changed: Collection[str] | None = None,
) -> None:
    """Write a network in memory, its tokenizer, chat template and `ablation.json` atomically.

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
    if changed is None:
        changed = _writer_parameters(model)
    network = model.network
    state = saved_parameters(network)
    if any(state[name].is_meta for name in changed):
        raise ExportError(
            "parts of the model are offloaded and not in memory; run with low_memory_export=true"
        )
    layout = lay_out(network, max_shard_size)
    checkpoint = Checkpoint(model.folder, network.base_model_prefix)

    require_saved(layout, changed)
    # Tensors whose stored form differs from the saved one cannot be compared with the checkpoint.
    own = layout.edited(changed) | {
        name for name, like in layout.tensors.items() if not checkpoint.holds(name, like.shape)
    }
    needed = {parameter for name in own for parameter in layout.origins[name].parameters}
    in_memory: dict[str, Tensor] = {}

    def expected(name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        if name in own:
            yield from plain_blocks(in_memory[name], dtype)
        else:
            with checkpoint.tensor(name, dtype) as tensor:
                yield from plain_blocks(tensor, dtype)

    with writing(folder) as beside:
        with _nothing_offloaded(network):
            network.save_pretrained(beside, max_shard_size=max_shard_size)
        take_over_files(model.folder, beside, record.get("chat_template"))
        in_memory |= as_stored(network, {name: state[name] for name in needed})
        verify_weights(beside, expected, layout)
        log_comparison(layout, checkpoint, changed)
        write_record(beside, record)


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


def _writer_parameters(model: Model) -> set[str]:
    """Return the names of the weights and biases of every stream writer."""
    return {
        name
        for writer in model.anatomy.writers
        for name in (writer.parameter_name, writer.bias_name)
        if name is not None
    }


@contextmanager
def _nothing_offloaded(network: Any) -> Iterator[None]:
    """Indicate to transformers that the whole network is in memory.

    It treats modules that a `device_map` put on the CPU as offloaded, and would restore the names
    and forms of the checkpoint file by file, for which a file does not always contain enough.
    """
    kept = vars(network).pop("hf_device_map", None)
    try:
        yield
    finally:
        if kept is not None:
            network.hf_device_map = kept


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
    network = empty_network(source, ablation.dtype, trust_remote_code=trust_remote_code)
    if any(edit.writer.component == EMBEDDINGS for edit in ablation.edits):
        require_untied(network)
    layout = lay_out(network, ablation.max_shard_size)
    checkpoint = Checkpoint(source, network.base_model_prefix)
    matrices, biases = ablation.matrix_edits(), ablation.bias_edits()
    changed = {*matrices, *biases}
    require_saved(layout, changed)
    _require_tensors(layout, checkpoint)
    _require_parts(layout, changed)

    def blocks(name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        parameter = layout.origins[name].parameter or ""
        with checkpoint.tensor(name, dtype) as tensor:
            if parameter in matrices:
                yield from edited_blocks(tensor, matrices[parameter], dtype)
            elif parameter in biases:
                edit = biases[parameter]
                yield edited_bias(tensor, edit.directions, edit.strengths, dtype)
            else:
                yield from plain_blocks(tensor, dtype)

    with writing(folder) as beside:
        save_configuration(network, beside)
        write_shards(layout, beside, blocks)
        take_over_files(source, beside, ablation.chat_template)
        verify_weights(beside, blocks, layout)
        log_comparison(layout, checkpoint, changed)
        write_record(beside, record)


def _require_tensors(layout: Layout, checkpoint: Checkpoint) -> None:
    """Reject checkpoints that cannot be read tensor by tensor, before writing."""
    for name, like in layout.tensors.items():
        if not checkpoint.holds(name, like.shape):
            raise ExportError(
                f"{checkpoint.folder} does not hold {name} under the name and shape "
                f"{tuple(like.shape)} used for saving; {OTHER_WAY}"
            )


def _require_parts(layout: Layout, changed: Collection[str]) -> None:
    """Reject tensors that are not edited in the form in which they are saved, before writing."""
    for name in layout.edited(changed):
        if layout.origins[name].parameter is None:
            raise ExportError(
                f"{name} has a different layout on disk than in the network, so it cannot be "
                f"edited shard by shard; {OTHER_WAY}"
            )

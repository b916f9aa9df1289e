"""Export of an edited model directly from the base model's files, for models larger than memory.

Each tensor is copied from the memory-mapped file of the base model to the new file, edited if
necessary, one block at a time. The bytes equal those that `save` writes for a network in memory.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heretic.ablation.blocks import edited_bias, edited_blocks, plain_blocks
from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.folder import (
    log_comparison,
    require_saved,
    take_over_files,
    write_record,
    writing,
)
from heretic.export.layout import Layout, empty_network, lay_out, save_configuration
from heretic.export.record import Ablation
from heretic.export.shards import write_shards
from heretic.export.verify import verify_weights
from heretic.model.components import EMBEDDINGS
from heretic.model.embeddings import require_untied

OTHER_WAY = "run with low_memory_export=false"


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
        with checkpoint.tensor(name) as tensor:
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

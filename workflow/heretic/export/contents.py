"""Weights of a saved model, block by block, from the base model's files or from memory."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from heretic.errors import ExportError
from heretic.export.checkpoint import Checkpoint
from heretic.export.edited_tensors import edited_bias, edited_blocks, plain_blocks
from heretic.export.folder import require_saved
from heretic.export.layout import Layout, empty_network, lay_out
from heretic.export.record import Ablation
from heretic.export.safetensors_writer import Blocks
from heretic.model.embeddings import require_untied
from heretic.model.loading import Model
from heretic.model.parameter_layout import as_stored, saved_parameters
from heretic.model.stream_writers.components import EMBEDDINGS

OTHER_WAY = "run with low_memory_export=false"


@dataclass(frozen=True)
class Contents:
    """Tensors of a saved model.

    Attributes:
        network: network, with or without its weights.
        layout: files and tensors.
        checkpoint: files of the base model.
        changed: names of the parameters that may differ from the base model.
        blocks: contents of each tensor as saved.
        expected: contents of each tensor computed from the base model, for comparison.
    """

    network: PreTrainedModel
    layout: Layout
    checkpoint: Checkpoint
    changed: frozenset[str]
    blocks: Blocks
    expected: Blocks

    def obstacle(self) -> str | None:
        """Return why the contents cannot be read from the checkpoint tensor by tensor, if so."""
        for name, like in self.layout.tensors.items():
            if not self.checkpoint.holds(name, like.shape):
                return (
                    f"{self.checkpoint.folder} does not hold {name} under the name and shape "
                    f"{tuple(like.shape)} used for saving; {OTHER_WAY}"
                )
        for name in self.layout.edited(self.changed):
            if self.layout.origins[name].parameter is None:
                return (
                    f"{name} has a different layout on disk than in the network, so it cannot be "
                    f"edited shard by shard; {OTHER_WAY}"
                )
        return None


def contents_of_files(ablation: Ablation, source: Path, *, trust_remote_code: bool) -> Contents:
    """Return the edited weights computed from the base model's files; see `obstacle`.

    Raises:
        ExportError: the base model cannot be laid out, or does not save an edited parameter.
        ModelLoadError: the embeddings are edited, and the base model decodes with them.
    """
    network = empty_network(source, ablation.dtype, trust_remote_code=trust_remote_code)
    if any(edit.writer.component == EMBEDDINGS for edit in ablation.edits):
        require_untied(network)
    checkpoint = Checkpoint(source, network.base_model_prefix)
    layout = lay_out(network, ablation.max_shard_size, checkpoint)
    matrices, biases = ablation.matrix_edits(), ablation.bias_edits()
    changed = frozenset((*matrices, *biases))
    require_saved(layout, changed)

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

    return Contents(network, layout, checkpoint, changed, blocks, blocks)


def contents_in_memory(
    model: Model, max_shard_size: str, changed: Collection[str] | None = None
) -> Contents:
    """Return the weights of a model in memory.

    Args:
        model: edited model.
        max_shard_size: maximum size of a file, such as `5GB`.
        changed: parameters that may differ from the checkpoint; None for those of all stream
            writers.

    Raises:
        ExportError: parts are not in memory, or the network does not save a changed parameter.
    """
    changed = frozenset(_writer_parameters(model) if changed is None else changed)
    network = model.network
    state = saved_parameters(network)
    if any(tensor.is_meta for tensor in state.values()):
        raise ExportError(
            "parts of the model are offloaded and not in memory; run with low_memory_export=true"
        )
    checkpoint = Checkpoint(model.folder, network.base_model_prefix)
    layout = lay_out(network, max_shard_size, checkpoint)
    require_saved(layout, changed)
    stored = as_stored(network, state)
    # Tensors whose stored form differs from the saved one cannot be compared with the checkpoint.
    own = layout.edited(changed) | {
        name for name, like in layout.tensors.items() if not checkpoint.holds(name, like.shape)
    }

    def blocks(from_memory: Collection[str], name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        if name in from_memory:
            yield from plain_blocks(stored[name], dtype)
        else:
            with checkpoint.tensor(name, dtype) as tensor:
                yield from plain_blocks(tensor, dtype)

    saved, expected = partial(blocks, stored), partial(blocks, own)
    return Contents(network, layout, checkpoint, changed, saved, expected)


def _writer_parameters(model: Model) -> set[str]:
    """Return the names of the weights and biases of every stream writer."""
    return {
        name
        for writer in model.anatomy.writers
        for name in (writer.parameter_name, writer.bias_name)
        if name is not None
    }

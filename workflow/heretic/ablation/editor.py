"""Applies a trial's edits to the weights and takes them back."""

from collections.abc import Sequence
from typing import Protocol

import psutil
import torch

from heretic.ablation.disk_weights import DiskWeights
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation, ablate_bias, ablate_matrix
from heretic.ablation.weights_cache import (
    LayerWeightsCache,
    PristineParts,
    copy_back,
    overwriting,
)
from heretic.console import log
from heretic.model.anatomy import Anatomy, StreamWriter
from heretic.model.loading import Model

# Batches of the evaluation need room beside the model and its copies.
SHARE_OF_FREE_MEMORY = 0.5


class PristineWeights(Protocol):
    """Where original weights come from: the cache in memory, or the checkpoint on disk."""

    def check(self, anatomy: Anatomy) -> None:
        """Raise `ModelLoadError` if the weights are not those of `anatomy`."""

    def pristine(self, writer: StreamWriter, anatomy: Anatomy) -> PristineParts:
        """Original weight and bias of one writer."""


class WeightEditor:
    """Edits a model in place, always from its pristine weights.

    Restoring and editing is one pass per matrix, and touches only the matrices that this edit or
    the one before it changes.
    """

    def __init__(
        self, model: Model, pristine: PristineWeights, norm_preservation: NormPreservation
    ) -> None:
        self.model, self.pristine = model, pristine
        self.norm_preservation: NormPreservation = norm_preservation
        self._edited: dict[str, StreamWriter] = {}

    def abliterate(self, edits: Sequence[Edit]) -> None:
        """Bring the model into the state of these edits, whatever its state was.

        Raises:
            ModelLoadError: the pristine weights do not fit the model, and nothing was changed; or
                writing failed, and the message says that the model must not be used.
        """
        anatomy = self.model.anatomy
        self.pristine.check(anatomy)
        wanted = {edit.writer.name: edit for edit in edits}
        for name in [name for name in self._edited if name not in wanted]:
            copy_back(self._edited[name], self.pristine.pristine(self._edited[name], anatomy))
            del self._edited[name]
        for name, edit in wanted.items():
            self._edited[name] = edit.writer
            self._write(edit, self.pristine.pristine(edit.writer, anatomy))

    def restore(self) -> None:
        """Bring the original model back, bit for bit."""
        self.abliterate([])

    def _write(self, edit: Edit, parts: PristineParts) -> None:
        with overwriting(edit.writer), torch.no_grad():
            target = edit.writer.weight
            weight = parts.weight.to(target.device)
            ablate_matrix(
                weight, edit.directions, edit.strengths, self.norm_preservation, out=target
            )
            bias = edit.writer.bias
            if bias is not None and parts.bias is not None:
                pristine = parts.bias.to(bias.device)
                bias.copy_(ablate_bias(pristine, edit.directions, edit.strengths))


def pristine_weights(model: Model, cache_weights: str) -> PristineWeights:
    """The source of original weights that `cache_weights` asks for; `auto` looks at free memory.

    Raises:
        ModelLoadError: the copies do not fit, or the checkpoint lacks a tensor.
    """
    if cache_weights == "auto":
        needed = sum(writer.weight.nbytes for writer in model.anatomy.writers)
        free = free_memory(model.device)
        cached = needed <= SHARE_OF_FREE_MEMORY * free
        log.info(
            "Weights cache needs %.2f GB of %.2f GB free: %s",
            needed / 1e9,
            free / 1e9,
            "caching in memory" if cached else "re-reading from disk",
        )
    else:
        cached = cache_weights == "true"
    return LayerWeightsCache(model.anatomy) if cached else DiskWeights(model)


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors on `device` may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)

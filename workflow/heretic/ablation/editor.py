"""Applies a trial's edits to the weights and takes them back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from heretic.ablation.disk_weights import DiskWeights
from heretic.ablation.memory_plan import choose_place
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation, ablate_bias, ablate_matrix
from heretic.ablation.weights_cache import (
    LayerWeightsCache,
    PristineParts,
    copy_back,
    overwriting,
)
from heretic.errors import ModelLoadError, one_line
from heretic.model.anatomy import Anatomy, StreamWriter
from heretic.model.loading import Model


class PristineWeights(Protocol):
    """Where original weights come from: the cache in memory, or the checkpoint on disk."""

    def check(self, anatomy: Anatomy) -> None:
        """Raise `ModelLoadError` if the weights are not those of `anatomy`."""

    def pristine(self, writer: StreamWriter) -> PristineParts:
        """Original weight and bias of one writer."""


class WeightEditor:
    """Edits a model in place, always from its pristine weights.

    Restoring and editing is one pass per matrix, and touches only the matrices that this edit or
    the one before it changes. If that fails half-way the model is of no more use: it is marked as
    damaged, and no editor takes it until it is loaded again.
    """

    def __init__(
        self, model: Model, pristine: PristineWeights, norm_preservation: NormPreservation
    ) -> None:
        """Edit `model`, which is in its original state.

        Raises:
            ModelLoadError: the model is damaged.
        """
        _require_sound(model)
        self.model, self.pristine = model, pristine
        self.norm_preservation: NormPreservation = norm_preservation
        self._edited: dict[str, StreamWriter] = {}

    def abliterate(self, edits: Sequence[Edit]) -> None:
        """Bring the model into the state of these edits, whatever its state was.

        Raises:
            ModelLoadError: the pristine weights do not fit the model, and nothing was changed; or
                writing failed, now or earlier, and the model must be loaded again.
        """
        _require_sound(self.model)
        self.pristine.check(self.model.anatomy)
        wanted = {edit.writer.name: edit for edit in edits}
        with _damaging(self.model):
            for name in [name for name in self._edited if name not in wanted]:
                copy_back(self._edited[name], self.pristine.pristine(self._edited[name]))
                del self._edited[name]
            for name, edit in wanted.items():
                self._edited[name] = edit.writer
                self._write(edit, self.pristine.pristine(edit.writer))

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


def _require_sound(model: Model) -> None:
    if model.damaged is not None:
        raise ModelLoadError(
            "the weights in memory are neither the original's nor an edit's, because an edit "
            f"failed half-way ({model.damaged}); load the model again"
        )


@contextmanager
def _damaging(model: Model) -> Iterator[None]:
    """Note why the block failed. Ctrl-C is no failure: what was touched is known, and restored."""
    try:
        yield
    except Exception as error:
        model.damaged = one_line(error)
        raise


def pristine_weights(
    model: Model, cache_weights: str, cache_device: str = "auto"
) -> PristineWeights:
    """The source of original weights that the settings of these names ask for.

    Raises:
        ModelLoadError: the copies do not fit, or the checkpoint lacks a tensor.
    """
    place = choose_place(model.anatomy.writers, cache_weights, cache_device)
    if place == "disk":
        return DiskWeights(model)
    return LayerWeightsCache(model.anatomy, place, model.network)

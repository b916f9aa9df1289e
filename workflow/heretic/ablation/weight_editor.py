"""Application of a trial's edits to the weights, and their reversal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.disk_weights import DiskWeights
from heretic.ablation.plan import Edit, require_few, staged
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weight_writer import MatrixWriting
from heretic.ablation.weights_cache import (
    LayerWeightsCache,
    OriginalTensors,
    copy_back,
    overwriting,
)
from heretic.errors import ModelLoadError, one_line
from heretic.model.loading import Model
from heretic.model.memory import choose_place
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter
from heretic.timing import StageTimer


class OriginalWeights(Protocol):
    """Source of original weights: the cache in memory, or the checkpoint on disk."""

    def check(self, anatomy: Anatomy) -> None:
        """Raise `ModelLoadError` if the weights are not those of `anatomy`."""

    def pristine(self, writer: StreamWriter) -> OriginalTensors:
        """Return the original weight and bias of one writer."""


class WeightEditor:
    """Edits a model in place, always from its pristine weights.

    Restoring and editing take one pass per matrix, and modify only the matrices changed by this
    edit or the previous one. Only one trial is held at a time. If an edit fails midway, the model
    is marked as damaged, and all editors reject it until it is loaded again.
    """

    name = "weights"
    max_trials = 1

    def __init__(
        self,
        model: Model,
        pristine: OriginalWeights,
        norm_preservation: NormPreservation,
        directions: AblationDirections | None = None,
    ) -> None:
        """Prepare to edit `model`, which must be in its original state.

        Args:
            model: model to edit.
            pristine: source of its original weights.
            norm_preservation: which norms are restored.
            directions: directions of the study, whose products are computed once for all trials.

        Raises:
            ModelLoadError: the model is damaged.
        """
        _require_sound(model)
        self.model, self.pristine = model, pristine
        self._edited: dict[str, StreamWriter] = {}
        self._writing = MatrixWriting(norm_preservation, directions)

    def load(self, trials: Sequence[Sequence[Edit]], clock: StageTimer | None = None) -> None:
        """Put the model into the state of the only trial's edits, whatever its current state.

        Args:
            trials: at most one; none, or one without edits, is the original.
            clock: records copying as the stage `restore`, and writing as the stage `edit`.

        Raises:
            ModelLoadError: there is more than one trial, or the pristine weights do not fit the
                model, and nothing was changed; or writing failed, now or earlier, and the model
                must be loaded again.
        """
        require_few(trials, self.max_trials)
        _require_sound(self.model)
        self.pristine.check(self.model.anatomy)
        wanted = {edit.writer.name: edit for edits in trials for edit in edits}
        with _damaging(self.model):
            with staged(clock, "restore"):
                for name in [name for name in self._edited if name not in wanted]:
                    copy_back(self._edited[name], self.pristine.pristine(self._edited[name]))
                    del self._edited[name]
            with staged(clock, "edit"):
                for name, edit in wanted.items():
                    self._edited[name] = edit.writer
                    self._write(edit, self.pristine.pristine(edit.writer))

    def assign(self, rows: int | Tensor) -> None:
        """Accept that all rows belong to the only trial.

        Args:
            rows: 0, or a zero for each row.

        Raises:
            ModelLoadError: a row is assigned to another trial.
        """
        if bool((rows != 0).any()) if isinstance(rows, Tensor) else rows != 0:
            raise ModelLoadError(
                "edited weights serve one trial at a time, so all rows must belong to the same "
                "trial; set trial_batch_size=1, or edit_mode=hooks"
            )

    def abliterate(self, edits: Sequence[Edit]) -> None:
        """Put the model into the state of these edits, as `load` does.

        Raises:
            ModelLoadError: as `load`.
        """
        self.load([edits])

    def restore(self) -> None:
        """Restore the original model, bit for bit."""
        self.abliterate([])

    def _write(self, edit: Edit, parts: OriginalTensors) -> None:
        with overwriting(edit.writer), torch.no_grad():
            self._writing.write(edit, parts)


def _require_sound(model: Model) -> None:
    if model.damaged is not None:
        raise ModelLoadError(
            "the weights in memory are partially edited, because an edit failed "
            f"({model.damaged}); load the model again"
        )


@contextmanager
def _damaging(model: Model) -> Iterator[None]:
    """Record why the block failed, except for Ctrl-C, after which touched weights are restored."""
    try:
        yield
    except Exception as error:
        model.damaged = one_line(error)
        raise


def original_weights(
    model: Model, cache_weights: str, cache_device: str = "auto"
) -> OriginalWeights:
    """Return the source of original weights selected by the settings of these names.

    Raises:
        ModelLoadError: the copies do not fit, or the checkpoint lacks a tensor.
    """
    place = choose_place(model.anatomy.writers, cache_weights, cache_device)
    if place == "disk":
        return DiskWeights(model)
    return LayerWeightsCache(model.anatomy, place, model.network)

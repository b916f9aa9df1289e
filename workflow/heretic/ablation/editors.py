"""A common interface of the two methods of applying an edit."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.hook_editor import HookEditor
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weight_editor import WeightEditor, original_weights
from heretic.errors import ModelLoadError
from heretic.model.loading import Model
from heretic.timing import StageTimer


class Editor(Protocol):
    """Switches a model between edited states, and back to the original."""

    @property
    def model(self) -> Model:
        """The edited model."""

    @property
    def name(self) -> str:
        """The corresponding value of the setting `edit_mode`."""

    @property
    def max_trials(self) -> int:
        """Maximum number of trials whose edits it can hold at once."""

    def load(self, trials: Sequence[Sequence[Edit]], clock: StageTimer | None = None) -> None:
        """Put the model into a state in which it computes these trials, whatever its current state.

        Afterwards, all rows belong to the first trial. No trials, or one without edits, is the
        original.

        Args:
            trials: edits of each trial, at most `max_trials`.
            clock: records the seconds as stages `restore` and `edit`.
        """

    def assign(self, rows: int | Tensor) -> None:
        """Assign the rows of the next passes to the loaded trials.

        Args:
            rows: the trial of all rows, or that of each row of the batch, int64 [batch] on the
                model's device.
        """

    def abliterate(self, edits: Sequence[Edit]) -> None:
        """Put the model into the state of these edits, whatever its current state."""

    def restore(self) -> None:
        """Restore the original model, bit for bit."""


def make_editor(
    model: Model,
    edit_mode: str,
    norm_preservation: NormPreservation,
    cache_weights: str,
    cache_device: str = "auto",
    directions: AblationDirections | None = None,
    *,
    static_shapes: bool = False,
) -> Editor:
    """Return the editor selected by the settings of these names, for an unedited model.

    `edit_mode: auto` edits weights, or outputs if any matrix is quantized or offloaded.

    Args:
        model: model to edit.
        edit_mode, norm_preservation, cache_weights, cache_device: as the settings.
        directions: directions of a study, whose products are computed once for all its trials; for
            a single edit, omitting them is faster.
        static_shapes: whether output hooks perform the same arithmetic in every trial, so that a
            compiled step fits all of them.

    Raises:
        ModelLoadError: the weights cannot be edited, the original weights cannot be kept or
            re-read, or the outputs cannot be edited in this way.
    """
    fixed = next((w for w in model.anatomy.writers if not w.editable), None)
    if edit_mode == "weights" and fixed is not None:
        raise ModelLoadError(
            f"{fixed.name} is quantized or offloaded, so its weights cannot be edited; set "
            "edit_mode=auto"
        )
    if edit_mode == "hooks" or fixed is not None:
        return HookEditor(model, norm_preservation, directions, static_shapes=static_shapes)
    pristine = original_weights(model, cache_weights, cache_device)
    return WeightEditor(model, pristine, norm_preservation, directions)

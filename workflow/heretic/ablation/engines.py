"""Two methods of applying an edit behind one interface."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.editor import WeightEditor, pristine_weights
from heretic.ablation.output_side import OutputSideEditor
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation
from heretic.errors import ModelLoadError
from heretic.model.loading import Model
from heretic.stages import StageClock


class Editor(Protocol):
    """Brings a model from one edited state into the next, and back to the original."""

    @property
    def model(self) -> Model:
        """The model that is edited."""

    @property
    def name(self) -> str:
        """The value of the setting `engine` that asks for it."""

    @property
    def max_trials(self) -> int:
        """Maximum number of trials whose edits it can hold at once."""

    def load(self, trials: Sequence[Sequence[Edit]], clock: StageClock | None = None) -> None:
        """Bring the model into a state in which it computes these trials, whatever its state was.

        All rows then belong to the first. No trials, or one without edits, is the original.

        Args:
            trials: the edits of each, at most `max_trials`.
            clock: to which the seconds are charged, as stages `restore` and `edit`.
        """

    def assign(self, rows: int | Tensor) -> None:
        """Say to which of the loaded trials the rows of the next passes belong.

        Args:
            rows: the trial of all rows, or that of each row of the batch, int64 [batch] on the
                model's device.
        """

    def abliterate(self, edits: Sequence[Edit]) -> None:
        """Bring the model into the state of these edits, whatever its state was."""

    def restore(self) -> None:
        """Bring the original model back, bit for bit."""


def make_editor(
    model: Model,
    engine: str,
    norm_preservation: NormPreservation,
    cache_weights: str,
    cache_device: str = "auto",
    directions: AblationDirections | None = None,
    *,
    steady: bool = False,
) -> Editor:
    """Return the editor that the settings of these names ask for, of a model in its original state.

    `engine: auto` edits weights, or outputs if any matrix is quantised or offloaded.

    Args:
        model: what to edit.
        engine, norm_preservation, cache_weights, cache_device: as the settings.
        directions: of a study, products with which are made once for all its trials; a single edit
            is faster without.
        steady: whether hooks on outputs do the same arithmetic in every trial, so that a compiled
            step fits all of them.

    Raises:
        ModelLoadError: weights are to be edited that cannot be, original weights cannot be kept
            or re-read, or outputs cannot be edited in this way.
    """
    fixed = next((w for w in model.anatomy.writers if not w.editable), None)
    if engine == "edited_weights" and fixed is not None:
        raise ModelLoadError(
            f"{fixed.name} is quantized or offloaded, so its weights cannot be edited; set "
            "engine=auto"
        )
    if engine == "output_side" or fixed is not None:
        return OutputSideEditor(model, norm_preservation, directions, steady=steady)
    pristine = pristine_weights(model, cache_weights, cache_device)
    return WeightEditor(model, pristine, norm_preservation, directions)

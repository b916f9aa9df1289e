"""The two ways of trying an edit, behind one interface."""

from collections.abc import Sequence
from typing import Protocol

from heretic.ablation.editor import WeightEditor, pristine_weights
from heretic.ablation.output_side import OutputSideEditor
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation
from heretic.errors import ModelLoadError
from heretic.model.loading import Model


class Editor(Protocol):
    """Brings a model from one edited state into the next, and back to the original."""

    @property
    def model(self) -> Model:
        """The model that is edited."""

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
) -> Editor:
    """The editor that the settings of these names ask for, of a model in its original state.

    `engine: auto` edits weights, or outputs if any matrix is quantised or offloaded.

    Raises:
        ModelLoadError: weights are to be edited that cannot be, original weights cannot be kept
            or re-read, or outputs cannot be edited in this way.
    """
    fixed = next((w for w in model.anatomy.writers if not w.editable), None)
    if engine == "edited_weights" and fixed is not None:
        raise ModelLoadError(
            f"{fixed.name} is quantised or offloaded, so that its weights cannot be edited; set "
            "engine=auto"
        )
    if engine == "output_side" or fixed is not None:
        return OutputSideEditor(model, norm_preservation)
    pristine = pristine_weights(model, cache_weights, cache_device)
    return WeightEditor(model, pristine, norm_preservation)

"""Scoring of trials with exactly the weights that their export would write."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from heretic.ablation.directions import AblationDirections
from heretic.ablation.projection import NormPreservation
from heretic.ablation.records import plan_recorded
from heretic.ablation.weight_editor import OriginalWeights, original_weights
from heretic.ablation.weights_cache import copy_back
from heretic.console import log
from heretic.engine.base import FeasibilityLimits
from heretic.engine.evaluator import Evaluator
from heretic.errors import ExportError
from heretic.evaluation.number_format import short
from heretic.export.merged import edit_in_memory
from heretic.export.record import Ablation
from heretic.metrics import KL
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model, load_model
from heretic.model.quantization import DEQUANTIZE, NONE
from heretic.model.stream_writers.components import EMBEDDINGS
from heretic.scoring import ScoredPrompts
from heretic.scoring.scorer_set import make_scorer_set
from heretic.search.finalists import Finalist
from heretic.search.loop import WORST_KL
from heretic.search.records import TrialRecord
from heretic.search.results import SearchResults


def rescoring_blocker(settings: Mapping[str, Any]) -> str | None:
    """Return why finalists cannot be re-scored, or None.

    Args:
        settings: values of `n_finalists`, `quantization`, `export_from` and `export`.
    """
    if settings["n_finalists"] == 1:
        return "n_finalists is 1"
    if settings["quantization"] not in (NONE, DEQUANTIZE):
        return "the network is quantized, and its full-precision weights may not fit"
    if settings["export_from"] is not None:
        return "the saved model is not the searched model"
    if settings["export"] == "quantized":
        return "the saved matrices are quantized again"
    if settings["export"] == "adapter":
        return "an adapter holds no edited weights"
    return None


def load_searched_model(results: SearchResults, load_options: Mapping[str, Any]) -> Model:
    """Return the model of a search, in the data type in which it is saved.

    Raises:
        ModelLoadError: see `load_model`.
    """
    model = load_model(**{**load_options, "dtype": results.file.model["dtype"]})
    edited = any(EMBEDDINGS in record.parameters.components for record in results.records)
    return with_embeddings(model) if edited else model


def memory_blocker(model: Model) -> str | None:
    """Return why the finalists of a loaded model cannot be re-scored, or None."""
    fixed = next((w.name for w in model.anatomy.writers if not w.editable), None)
    return None if fixed is None else f"{fixed} is offloaded, so it cannot be edited in place"


@contextmanager
def as_exported(model: Model, ablation: Ablation, pristine: OriginalWeights) -> Iterator[None]:
    """Load the exported tensors into the model within the block, then restore it bit for bit.

    Args:
        model: model in its original state.
        ablation: edit, in the data type of the model.
        pristine: original weights of the model.

    Raises:
        ExportError: the edit does not belong to this model.
        ModelLoadError: the original weights cannot be restored.
    """
    writers = {writer.parameter_name: writer for writer in model.anatomy.writers}
    unknown = [name for name in ablation.matrix_edits() if name not in writers]
    if unknown:  # these could not be restored
        raise ExportError(
            f"{unknown[0]}, which the search edited, is not among the loaded model's stream "
            "writers; run the search again"
        )
    edited = [writers[name] for name in ablation.matrix_edits()]
    try:
        edit_in_memory(model, ablation)
        yield
    finally:
        for writer in edited:
            copy_back(writer, pristine.pristine(writer))


@dataclass(frozen=True)
class Rescoring:
    """Everything needed to re-score trials.

    Attributes:
        evaluator: evaluator of a model that is in its original state between trials.
        pristine: original weights of that model.
        directions: directions of every state of the residual stream.
        facts: facts about the model as recorded by the search in `study.json`.
        norm_preservation: norms to restore.
    """

    evaluator: Evaluator
    pristine: OriginalWeights
    directions: AblationDirections
    facts: Mapping[str, Any]
    norm_preservation: NormPreservation

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: ScoredPrompts,
        directions: AblationDirections,
        facts: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> "Rescoring":
        """Create from the searched model in its original state.

        Args:
            model: the model.
            prompts: prompts of the search.
            directions: directions of every state of the residual stream.
            facts: facts about the model, from `study.json`.
            options: settings of the search and of the copies of the original weights.
        """
        scorer_set = make_scorer_set(options["refusal_markers"], options["scorers"])
        return cls(
            Evaluator(model, prompts, options["max_response_length"], scorer_set),
            original_weights(model, options["cache_weights"], options["cache_device"]),
            directions,
            facts,
            options["norm_preservation"],
        )

    def ablation(self, record: TrialRecord) -> Ablation:
        """Return a trial's edit as made by an export; the file layout is irrelevant here."""
        return Ablation(
            tuple(plan_recorded(record.parameters, self.directions, self.facts)),
            self.norm_preservation,
            self.facts["dtype"],
            "merged",
            max_shard_size="5GB",
            chat_template=None,
        )

    def score(self, record: TrialRecord) -> Finalist:
        """Score a trial by plain passes on the search's evaluation prompts.

        Raises:
            ExportError, ModelLoadError: see `as_exported`.
        """
        with as_exported(self.evaluator.model, self.ablation(record), self.pristine):
            # The only limit excludes values that are not finite.
            scores = dict(self.evaluator.evaluate(FeasibilityLimits(WORST_KL)))
        feasible = math.isfinite(scores[KL]) and scores[KL] <= WORST_KL
        if not feasible:
            scores[KL] = WORST_KL
        told = ", ".join(
            f"{name} {short(value)} (in the search {short(record.scores.get(name))})"
            for name, value in scores.items()
        )
        log.info("Trial %d: %s", record.number, told)
        return Finalist(record.number, scores, record.scores, feasible)

"""The held-out comparison: original, controls, then the saved model, one in memory at a time."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from heretic.ablation.directions import AblationDirections, orthonormal
from heretic.ablation.engines import Editor, make_editor
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import plan_edits
from heretic.console import log
from heretic.evaluation.holdout import (
    HoldoutSets,
    Measurement,
    Original,
    measure,
    record_original,
    samples,
    summarize,
    unchanged,
)
from heretic.model.components import EMBEDDINGS
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model

SAMPLES_PER_SET = 8


@dataclass(frozen=True)
class HoldoutProtocol:
    """How models are compared; fields as the settings of the same names."""

    max_response_length: int
    kl_tokens: int
    bootstrap_samples: int
    seed: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "HoldoutProtocol":
        """Pick the fields out of a larger set of settings."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__})


def evaluate_edit(
    load_original: Callable[[], Model],
    load_edited: Callable[[], Model],
    record: Mapping[str, Any],
    directions: AblationDirections,
    sets: HoldoutSets,
    protocol: HoldoutProtocol,
    cache_weights: str,
    cache_device: str = "auto",
) -> dict[str, Any]:
    """Measure original, no-op, random direction and the edited model, in that order.

    Args:
        load_original: loads the model before the edit.
        load_edited: loads the saved model, so that what is measured is what was written.
        record: contents of the saved model's `ablation.json`.
        directions: those that the edit used.
        sets: held-out prompts.
        protocol: lengths, resamples, seed.
        cache_weights: as the setting.
        cache_device: as the setting.

    Returns:
        `evaluation.json` without its provenance.
    """
    length = protocol.max_response_length
    model = load_original()
    if EMBEDDINGS in record["parameters"]["components"]:
        model = with_embeddings(model)
    original = record_original(model, sets, length, protocol.kl_tokens)
    unedited = unchanged(model, original)
    # The edited model has edited weights, so its controls have them too, where they can.
    editor = make_editor(model, "auto", record["norm_preservation"], cache_weights, cache_device)
    noop, random = _controls(editor, record, directions, sets, original, protocol)
    del editor
    del model
    gc.collect()
    edited = measure(load_edited(), sets, original, length, "edited model")

    def row(measurement: Measurement) -> dict[str, Any]:
        return summarize(measurement, sets, protocol.bootstrap_samples, protocol.seed)

    return {
        "original": row(unedited),
        "edited": row(edited),
        "controls": {"noop": row(noop), "random_direction": row(random)},
        "noop_identical": noop == unedited,
        "samples": samples(unedited, edited, sets, SAMPLES_PER_SET),
    }


def random_directions(like: AblationDirections, seed: int) -> AblationDirections:
    """Random orthonormal rows, as many as `like` has and with the same weights."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.rows.shape, generator=generator)
    units = torch.stack([orthonormal(rows) for rows in drawn])
    return AblationDirections.of(units, like.weights, like.discriminative)


def _controls(
    editor: Editor,
    record: Mapping[str, Any],
    directions: AblationDirections,
    sets: HoldoutSets,
    original: Original,
    protocol: HoldoutProtocol,
) -> tuple[Measurement, Measurement]:
    """The edit at strength zero after the real one, and the edit along random directions."""
    parameters = AblationParameters.from_dict(record["parameters"])
    model = editor.model
    edits = plan_edits(parameters, directions, model.anatomy)
    editor.abliterate(edits)
    editor.abliterate([replace(edit, strengths=(0.0,) * len(edit.strengths)) for edit in edits])
    length = protocol.max_response_length
    noop = measure(model, sets, original, length, "no-op control")
    elsewhere = random_directions(directions, protocol.seed)
    editor.abliterate(plan_edits(parameters, elsewhere, model.anatomy))
    random = measure(model, sets, original, length, "random control")
    log.info("Controls measured: no-op and random direction")
    return noop, random

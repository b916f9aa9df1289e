"""Held-out comparison: original, controls, then the saved model, one in memory at a time."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections, orthonormal
from heretic.ablation.editors import Editor, make_editor
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import plan_edits
from heretic.console import log
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.measurement import Measurement, Original, measure, record_original
from heretic.evaluation.rows import summarize
from heretic.evaluation.side_by_side import SideBySide, side_by_side
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model
from heretic.model.quantization import AS_IS, DEQUANTIZE
from heretic.model.stream_writers.components import EMBEDDINGS


def evaluate_edit(
    load_original: Callable[[], Model],
    load_edited: Callable[[], Model],
    record: Mapping[str, Any],
    directions: AblationDirections,
    sets: HoldoutSets,
    protocol: HoldoutProtocol,
    cache_weights: str,
    cache_device: str = "auto",
    shuffled_labels: Tensor | None = None,
) -> SideBySide:
    """Measure the original, the controls and the edited model, in that order.

    Args:
        load_original: loads the model before the edit.
        load_edited: loads the saved model, so that exactly the exported weights are measured.
        record: contents of the saved model's `ablation.json`.
        directions: directions used by the edit.
        sets: held-out prompts.
        protocol: lengths, resamples, seed and scorers.
        cache_weights: value of the setting.
        cache_device: value of the setting.
        shuffled_labels: directions computed likewise from shuffled labels, with the shape of
            `directions.rows`; None leaves this control out.

    Returns:
        Contents of `evaluation.json` without provenance, and all answers.
    """
    model = load_original()
    if EMBEDDINGS in record["parameters"]["components"]:
        model = with_embeddings(model)
    form = model.quantization
    original = record_original(model, sets, protocol)
    # The edited model has edited weights, so its controls use them too if possible.
    editor = make_editor(model, "auto", record["norm_preservation"], cache_weights, cache_device)
    controls = _controls(editor, record, directions, shuffled_labels, sets, original, protocol)
    del editor
    del model
    gc.collect()
    model = load_edited()
    forms = {"original": form, "edited": model.quantization}
    edited = measure(model, sets, original, protocol, "edited model")

    found = side_by_side(original.measurement, edited, sets, protocol)
    rows = {name: summarize(control, protocol) for name, control in controls.items()}
    noop_identical = controls["noop"] == original.measurement
    table = {**found.table, "controls": rows, "noop_identical": noop_identical}
    for name, loaded in forms.items():
        if loaded in (AS_IS, DEQUANTIZE):
            table[name]["quantization"] = loaded
    return SideBySide(table, found.answers)


def random_directions(like: AblationDirections, seed: int) -> AblationDirections:
    """Return random orthonormal rows, with the number and the weights of those of `like`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.rows.shape, generator=generator)
    units = torch.stack([orthonormal(rows) for rows in drawn])
    return AblationDirections.of(units, like.weights, like.discriminative)


def _controls(
    editor: Editor,
    record: Mapping[str, Any],
    directions: AblationDirections,
    shuffled_labels: Tensor | None,
    sets: HoldoutSets,
    original: Original,
    protocol: HoldoutProtocol,
) -> dict[str, Measurement]:
    """Yield the edit with strength zero, then the same edit along other directions."""
    parameters = AblationParameters.from_dict(record["parameters"])
    model = editor.model
    edits = plan_edits(parameters, directions, model.anatomy)
    editor.abliterate(edits)
    editor.abliterate([replace(edit, strengths=(0.0,) * len(edit.strengths)) for edit in edits])
    controls = {"noop": measure(model, sets, original, protocol, "no-op control")}
    others = {"random_direction": random_directions(directions, protocol.seed)}
    if shuffled_labels is not None:
        # The same weights too, so that it differs only in orientation.
        others["shuffled_labels"] = AblationDirections.of(
            shuffled_labels, directions.weights, directions.discriminative
        )
    for name, elsewhere in others.items():
        editor.abliterate(plan_edits(parameters, elsewhere, model.anatomy))
        told = f"{name.replace('_', ' ')} control"
        controls[name] = measure(model, sets, original, protocol, told)
    log.info("Controls measured: %s", ", ".join(controls))
    return controls

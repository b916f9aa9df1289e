"""Export of the selected trial: its edit, its base model and the record of both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heretic.ablation.directions import AblationDirections
from heretic.artifact_types import Best
from heretic.console import log
from heretic.errors import ExportError
from heretic.export.export import export_model, wants_low_memory
from heretic.export.full_precision import fit_to_original, needs_fitting
from heretic.export.record import Ablation
from heretic.export.source_card import inherited_metadata
from heretic.model.checkpoint import locate, source_facts
from heretic.model.loading import load_model
from heretic.model.quantization import NONE, editable_form

# Facts about the searched model that the record contains per edit or for the base model.
NOT_RECORDED = ("writers", "shapes", "weights", "template_date")


def export_best(
    best: Best,
    directions: AblationDirections,
    folder: Path,
    *,
    searched: str,
    settings: Mapping[str, Any],
    runtime: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Apply the edit and write the folder, including the record needed to reproduce it.

    Args:
        best: selected trial.
        directions: directions of every state of the residual stream.
        folder: target folder, replaced if it exists.
        searched: path or hub id of the searched model.
        settings: settings of the export.
        runtime: settings that affect no result.
        provenance: settings and inputs, for the record.

    Raises:
        ExportError: the weights have changed since the search, or see `export_model`.
        ModelLoadError: the base model cannot be loaded.
    """
    ablation = Ablation.plan(best.parameters, best.model, directions, settings)
    base = locate(searched, settings["model_revision"])
    original, trust = settings["export_from"], runtime["trust_remote_code"]
    source = base if original is None else locate(original, None)
    # The manifest and the card of an earlier model are outdated.
    folder.with_name("model.manifest.json").unlink(missing_ok=True)
    log.info("Editing %d of %d matrices", len(ablation.edits), len(best.model["writers"]))
    origin = _origin(best, settings, base, source)
    if needs_fitting(best.model, original):
        dtype = None if original is None else settings["dtype"]
        ablation = fit_to_original(ablation, best.model, source, dtype, trust_remote_code=trust)
    changes = {
        "model": str(source),
        "model_revision": None,
        "dtype": ablation.dtype,
        "template_date": ablation.template_date,
        "quantization": editable_form(NONE, source / "config.json"),
    }
    facts = {
        "trial": best.trial,
        "parameters": best.parameters,
        "strengths": best.strengths,
        "model": {k: v for k, v in best.model.items() if k not in NOT_RECORDED},
        "source": {**origin, "card": inherited_metadata(source)},
        "provenance": provenance,
    }
    export_model(
        ablation,
        source,
        folder,
        facts,
        load=lambda: load_model(**{**runtime, **settings, **changes}),
        low_memory=ablation.export == "merged"
        and wants_low_memory(
            runtime["low_memory_export"],
            source,
            ablation.dtype,
            runtime["device"],
            trust_remote_code=trust,
        ),
        trust_remote_code=trust,
    )


def _origin(best: Best, settings: Mapping[str, Any], base: Path, source: Path) -> dict[str, Any]:
    """Return facts about the exported model's source, after checking the searched weights."""
    origin = source_facts(settings["model"], settings["model_revision"], base)
    if origin["sha256"] != best.model["weights"]:
        raise ExportError(
            f"the weights of {settings['model']} differ from the ones that were searched; did "
            "another run train or replace the model? Run again"
        )
    original = settings["export_from"]
    return origin if original is None else source_facts(original, None, source)

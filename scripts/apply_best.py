"""Edit the weights with the selected trial and save the model as a standard folder."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.artifacts import provenance, read_json, read_tensors
from heretic.console import job, log
from heretic.errors import ExportError
from heretic.export.export import export_model, wants_low_memory
from heretic.export.formats import check_form
from heretic.export.full_precision import fit_to_original, needs_fitting
from heretic.export.record import Ablation
from heretic.export.source_card import inherited_metadata
from heretic.model.checkpoint import locate, source_facts
from heretic.model.devices import set_threads
from heretic.model.loading import load_model
from heretic.phases import unchanged_phase

snakemake: Snakemake

# Facts about the searched model that the record contains per edit or for the base model.
NOT_TOLD = ("writers", "shapes", "weights", "template_date")


def main(smk: Snakemake) -> None:
    """Apply the edit and write the folder, including the record needed to reproduce it."""
    settings, runtime = smk.params.settings, smk.config["runtime"][smk.wildcards.run]
    check_form(settings["export"], settings["norm_preservation"])
    set_threads(runtime["threads"])
    inputs = {"best": Path(smk.input.best[0]), "directions": Path(smk.input.directions)}
    best = read_json(inputs["best"])
    directions = AblationDirections.from_tensors(read_tensors(inputs["directions"]))
    ablation = Ablation.plan(best, directions, settings)
    searched = locate(smk.params.model, settings["model_revision"])
    original, trust = settings["export_from"], runtime["trust_remote_code"]
    source = searched if original is None else locate(original, None)
    # The manifest and the card of an earlier model are outdated.
    folder = Path(smk.output[0]).parent
    folder.with_name("model.manifest.json").unlink(missing_ok=True)
    log.info("Editing %d of %d matrices", len(ablation.edits), len(best["model"]["writers"]))
    origin = source_facts(settings["model"], settings["model_revision"], searched)
    if origin["sha256"] != best["model"]["weights"]:
        raise ExportError(
            f"the weights of {settings['model']} differ from the ones that were searched; did "
            "another run train or replace the model? Run again"
        )
    if original is not None:
        origin = source_facts(original, None, source)
    if needs_fitting(best["model"], original):
        dtype = None if original is None else settings["dtype"]
        ablation = fit_to_original(ablation, best["model"], source, dtype, trust_remote_code=trust)
    facts = {
        "trial": best["trial"],
        "parameters": best["parameters"],
        "strengths": best["strengths"],
        "model": {k: v for k, v in best["model"].items() if k not in NOT_TOLD},
        "source": {**origin, "card": inherited_metadata(source)},
        "provenance": provenance(settings, inputs),
    }
    changes = {
        "model": str(source),
        "model_revision": None,
        "dtype": ablation.dtype,
        "template_date": ablation.template_date,
    }
    export_model(
        ablation,
        source,
        folder,
        facts,
        load=lambda: load_model(**{**runtime, **settings, **changes}),
        low_memory=wants_low_memory(
            runtime["low_memory_export"],
            source,
            ablation.dtype,
            runtime["device"],
            trust_remote_code=trust,
        ),
        trust_remote_code=trust,
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

"""Edits the weights with the chosen trial and saves the model as a standard folder."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.artifacts import provenance, read_json, read_tensors
from heretic.console import job, log
from heretic.errors import ExportError
from heretic.export.export import export_model, wants_low_memory
from heretic.export.forms import check_form
from heretic.export.record import Ablation
from heretic.export.source_card import carried_over
from heretic.model.loading import load_model
from heretic.model.source import locate, source_facts
from heretic.model.threads import set_threads

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Apply the edit, write the folder, and in it what is needed to do it again."""
    settings, runtime = smk.params.settings, smk.config["runtime"][smk.wildcards.run]
    check_form(settings["export"], settings["norm_preservation"])
    set_threads(runtime["threads"])
    inputs = {"best": Path(smk.input.best[0]), "directions": Path(smk.input.directions)}
    best = read_json(inputs["best"])
    directions = AblationDirections.from_tensors(read_tensors(inputs["directions"]))
    ablation = Ablation.plan(best, directions, settings)
    source = locate(smk.params.model, settings["model_revision"])
    # A manifest and a card of an earlier model must not outlive it.
    folder = Path(smk.output[0]).parent
    folder.with_name("model.manifest.json").unlink(missing_ok=True)
    log.info("Editing %d of %d maps", len(ablation.edits), len(best["model"]["writers"]))
    origin = source_facts(settings["model"], settings["model_revision"], source)
    if origin["sha256"] != best["model"]["weights"]:
        raise ExportError(
            f"the weights of {settings['model']} are not those that were searched; did another run "
            "train or replace the model meanwhile? Run again"
        )
    facts = {
        "trial": best["trial"],
        "parameters": best["parameters"],
        "strengths": best["strengths"],
        "model": {k: v for k, v in best["model"].items() if k not in ("writers", "weights")},
        "source": {**origin, "card": carried_over(source)},
        "provenance": provenance(settings, inputs),
    }
    changes = {"model": smk.params.model, "dtype": ablation.dtype}
    trust = runtime["trust_remote_code"]
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


with job(snakemake.log[0]):
    main(snakemake)

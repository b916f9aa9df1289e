"""Edits the weights with the chosen trial and saves the model as a standard folder."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.editor import FreshWeights, WeightEditor
from heretic.ablation.parameters import AblationParameters
from heretic.ablation.plan import plan_edits
from heretic.artifacts import provenance, read_json, read_tensors
from heretic.console import job, log
from heretic.export.save import save_model
from heretic.model.loading import load_model, model_facts
from heretic.model.source import source_facts
from heretic.model.threads import set_threads

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Apply the edit, write the folder, and in it what is needed to do it again."""
    settings, runtime = smk.params.settings, smk.config["runtime"][smk.wildcards.run]
    set_threads(runtime["threads"])
    inputs = {"best": Path(smk.input.best[0]), "directions": Path(smk.input.directions)}
    best = read_json(inputs["best"])
    directions = read_tensors(inputs["directions"])["refusal_directions"]
    model = load_model(**{**runtime, **settings, "model": smk.params.model})
    edits = plan_edits(AblationParameters.from_dict(best["parameters"]), directions, model.anatomy)
    WeightEditor(model, FreshWeights(), settings["norm_preservation"]).abliterate(edits)
    # A manifest and a card of an earlier model must not outlive it.
    folder = Path(smk.output[0]).parent
    folder.with_name("model.manifest.json").unlink(missing_ok=True)
    log.info("Edited %d of %d maps", len(edits), len(model.anatomy.writers))
    record = {
        "trial": best["trial"],
        "parameters": best["parameters"],
        "strengths": best["strengths"],
        "norm_preservation": settings["norm_preservation"],
        "edited": [f"{edit.writer.name}.weight" for edit in edits],
        "model": model_facts(model),
        "source": source_facts(settings["model"], settings["model_revision"], model.folder),
        "provenance": provenance(settings, inputs),
    }
    save_model(model, folder, settings["max_shard_size"], record)


with job(snakemake.log[0]):
    main(snakemake)

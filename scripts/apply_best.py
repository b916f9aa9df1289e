"""Edit the weights with the selected trial and save the model as a standard folder."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.artifact_types import Best
from heretic.artifacts import provenance, read_tensors
from heretic.export.best import export_best
from heretic.export.formats import check_form
from heretic.model.model_phase import model_phase

snakemake: Snakemake

with model_phase(snakemake) as job:
    check_form(job.settings["export"], job.settings["norm_preservation"])
    inputs = {
        "best": Path(snakemake.input.best[0]),
        "directions": Path(snakemake.input.directions),
    }
    export_best(
        Best.read(inputs["best"]),
        AblationDirections.from_tensors(read_tensors(inputs["directions"])),
        Path(snakemake.output[0]).parent,
        searched=snakemake.params.model,
        settings=job.settings,
        runtime=job.runtime,
        provenance=provenance(job.settings, inputs),
    )

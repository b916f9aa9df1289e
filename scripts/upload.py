"""Upload the saved model to the hub and store the receipt."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.console import job, log
from heretic.export.upload import upload_model
from heretic.phases import unchanged_phase

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Upload every file of the model folder in one commit."""
    settings, folder = smk.params.settings, Path(smk.input.manifest).with_name("model")
    receipt = upload_model(folder, settings["upload_to"], private=settings["upload_private"])
    log.info("Uploaded to %s", receipt["url"])
    facts = provenance(settings, {"manifest": Path(smk.input.manifest)})
    write_json(Path(smk.output[0]), {**receipt, "provenance": facts})


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

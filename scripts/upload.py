"""Upload the saved model to the hub and store the receipt."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.console import log
from heretic.export.upload import upload_model
from heretic.phase_job import phase

snakemake: Snakemake

with phase(snakemake) as settings:
    manifest = Path(snakemake.input.manifest)
    receipt = upload_model(
        manifest.with_name("model"), settings["upload_to"], private=settings["upload_private"]
    )
    log.info("Uploaded to %s", receipt["url"])
    facts = provenance(settings, {"manifest": manifest})
    write_json(Path(snakemake.output[0]), {**receipt, "provenance": facts})

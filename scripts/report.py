"""Write the self-contained report page and the static copies of its figures."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.phase_job import phase
from heretic.report.page import write_report

snakemake: Snakemake

with phase(snakemake):
    target, run = Path(snakemake.output[0]), snakemake.wildcards.run
    write_report(
        target.parent,
        run=run,
        settings=snakemake.config["settings"][run],
        target=target,
        plots=target.parent / "plots",
        picks=[Path(best).parent for best in snakemake.input.picks],
    )

"""Write the self-contained report page and the static copies of its figures."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.console import job
from heretic.phases import unchanged_phase
from heretic.report.page import write_report

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Draw the run's artifacts."""
    target, run = Path(smk.output[0]), smk.wildcards.run
    write_report(
        target.parent,
        run=run,
        settings=smk.config["settings"][run],
        target=target,
        plots=target.parent / "plots",
        picks=[Path(best).parent for best in smk.input.picks],
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

"""Extract the residual stream of a set of prompts from which directions are kept away.

h_l(x) as in `extract_residuals`. If only the mean of h_l over plain texts is needed, it is
accumulated batch by batch.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.console import job
from heretic.model.devices import set_threads
from heretic.model.loading import load_model
from heretic.model.template_date import read_chat
from heretic.phases import unchanged_phase
from heretic.residual_files import write_residuals

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Load the model and write the states of the set, or their mean."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    settings = {**smk.params.settings, **read_chat(Path(smk.input.chat))}
    set_threads(runtime["threads"])
    model = load_model(**{**runtime, **settings, "model": smk.params.model})
    write_residuals(
        model,
        Path(smk.input.prompts),
        Path(smk.output[0]),
        settings,
        mean_only=settings["unhelpfulness_mean_only"],
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

"""Extract the residual stream of a set of prompts from which directions are kept away.

h_l(x) as in `extract_residuals`. If only the mean of h_l over plain texts is needed, it is
accumulated batch by batch.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.model.loading import load_model
from heretic.model.model_phase import model_phase
from heretic.residual_files import write_residuals

snakemake: Snakemake

with model_phase(snakemake) as job:
    write_residuals(
        load_model(**job.load_options),
        Path(snakemake.input.prompts),
        Path(snakemake.output[0]),
        job.settings,
        mean_only=job.settings["unhelpfulness_mean_only"],
    )

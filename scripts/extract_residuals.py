"""Extract the residual stream of good and bad prompts where the answer begins.

h_l(x) is the hidden state after layer l at the position before the answer; h_0 is the embedding.
One set of each side determines the directions; the other, held-out set evaluates them.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.model.loading import load_model
from heretic.model.model_phase import model_phase
from heretic.residual_files import write_residuals

snakemake: Snakemake

with model_phase(snakemake) as job:
    model = load_model(**job.load_options)
    for name, target in snakemake.output.items():
        write_residuals(model, Path(snakemake.input[name]), Path(target), job.settings)

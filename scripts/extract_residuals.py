"""Extract the residual stream of good and bad prompts where the answer begins.

h_l(x) is the hidden state after layer l at the position before the answer; h_0 is the embedding.
One set of each side determines the directions; the other, held-out set evaluates them.
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
    """Load the model once and write the states of each set."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    settings = {**smk.params.settings, **read_chat(Path(smk.input.chat))}
    set_threads(runtime["threads"])
    model = load_model(**{**runtime, **settings, "model": smk.params.model})
    for name, target in smk.output.items():
        write_residuals(model, Path(smk.input[name]), Path(target), settings)


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

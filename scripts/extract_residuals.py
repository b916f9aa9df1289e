"""Reads the residual stream of one prompt set at the last prompt token.

h_l(x) is the hidden state after layer l at the position before the answer; h_0 the embedding.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_json, write_tensors
from heretic.console import job
from heretic.model.loading import load_model
from heretic.model.threads import set_threads
from heretic.prompts.bundle import read_prompts
from heretic.residuals import get_residuals_batched

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Load the model, run the prompts, write their states."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    chat = read_json(Path(smk.input.chat))
    settings = {**smk.params.settings, "response_prefix": chat["response_prefix"]}
    set_threads(runtime["threads"])
    prompts = read_prompts(Path(smk.input.prompts))
    model = load_model(**{**runtime, **settings, "model": smk.params.model})
    residuals = get_residuals_batched(model, prompts, f"Residuals of {smk.wildcards.prompts}")
    facts = provenance(settings, {"prompts": Path(smk.input.prompts)})
    write_tensors(Path(smk.output[0]), {"residuals": residuals}, facts)


with job(snakemake.log[0]):
    main(snakemake)

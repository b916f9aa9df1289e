"""Loads one prompt set from a file, a folder, the hub or the demo."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.console import job, log
from heretic.prompts.bundle import write_prompts
from heretic.prompts.sources import read_source
from heretic.settings.prompt_sources import PromptSource

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Write the prompts, one a line, and their fingerprint."""
    source = PromptSource(**smk.params.source)
    loaded = read_source(source, seed=smk.params.settings["seed"])
    write_prompts(Path(smk.output[0]), loaded.prompts, loaded.facts)
    log.info("%s: %d prompts from %s", smk.wildcards.prompts, len(loaded.prompts), source.dataset)


with job(snakemake.log[0]):
    main(snakemake)

"""Load one prompt set from files, folders, the hub or the demo."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.console import job, log
from heretic.phases import unchanged_phase
from heretic.prompts.prompt_sets import write_prompts
from heretic.prompts.sources import read_sources
from heretic.settings.prompt_sources import PromptSource

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Write the prompts, one per line, and their fingerprint."""
    sources = [PromptSource(**source) for source in smk.params.sources]
    drawn = smk.params.settings
    loaded = read_sources(sources, seed=drawn["seed"], planted=drawn["demo_refusal_class"])
    write_prompts(Path(smk.output[0]), loaded.prompts, loaded.facts)
    names = ", ".join(dict.fromkeys(source.dataset for source in sources))
    log.info("%s: %d prompts from %s", smk.wildcards.prompts, len(loaded.prompts), names)


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

"""Load one prompt set from files, folders, the hub or the demo."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.console import log
from heretic.phase_job import phase
from heretic.prompts.prompt_sets import write_prompts
from heretic.prompts.sources import read_sources
from heretic.settings.prompt_sources import PromptSource

snakemake: Snakemake

with phase(snakemake) as settings:
    sources = [PromptSource(**source) for source in snakemake.params.sources]
    loaded = read_sources(sources, seed=settings["seed"], planted=settings["demo_refusal_class"])
    write_prompts(Path(snakemake.output[0]), loaded.prompts, loaded.facts)
    names = ", ".join(dict.fromkeys(source.dataset for source in sources))
    log.info("%s: %d prompts from %s", snakemake.wildcards.prompts, len(loaded.prompts), names)

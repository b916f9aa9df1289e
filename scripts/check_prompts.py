"""Reject prompt sets that overlap or are too small, before any model is loaded."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.console import job, log
from heretic.phases import unchanged_phase
from heretic.prompts.checks import require_enough
from heretic.prompts.prompt_sets import DatasetBundle
from heretic.settings.prompt_sources import PROMPT_SETS

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Read all sets in use, compare them, and write the number of prompts of each."""
    used = dict(smk.input.items())
    paths = {name: Path(used[name]) for name in PROMPT_SETS if name in used}
    bundle = DatasetBundle.read(Path(smk.output[0]).parent, sets=paths)
    bundle.check()
    counts = bundle.summary()
    # Not compared with an earlier run's: a later change is rejected where it matters.
    require_enough(counts, smk.config["settings"][smk.wildcards.run])
    log.info("%d prompts in %d sets, no overlap", sum(counts.values()), len(counts))
    write_json(
        Path(smk.output[0]),
        {"counts": counts, "provenance": provenance({}, paths)},
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, {}),
):
    main(snakemake)

"""Reject prompt sets that overlap or are too small, before any model is loaded."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.console import log
from heretic.phase_job import phase
from heretic.prompts.checks import require_enough
from heretic.prompts.prompt_sets import DatasetBundle
from heretic.settings.prompt_sources import PROMPT_SETS

snakemake: Snakemake

with phase(snakemake):
    used, target = dict(snakemake.input.items()), Path(snakemake.output[0])
    paths = {name: Path(used[name]) for name in PROMPT_SETS if name in used}
    bundle = DatasetBundle.read(target.parent, sets=paths)
    bundle.check()
    counts = bundle.summary()
    # Not compared with an earlier run's: a later change is rejected where it matters.
    require_enough(counts, snakemake.config["settings"][snakemake.wildcards.run])
    log.info("%d prompts in %d sets, no overlap", sum(counts.values()), len(counts))
    write_json(target, {"counts": counts, "provenance": provenance({}, paths)})

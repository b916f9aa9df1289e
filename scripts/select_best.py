"""Select one trial from the Pareto front of the search's objectives."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifact_types import FinalistsFile
from heretic.artifacts import provenance
from heretic.console import log
from heretic.phase_job import phase
from heretic.search.finalists import Finalists, choose_finalist
from heretic.search.results import NO_EFFECT, SearchResults

snakemake: Snakemake

with phase(snakemake) as settings:
    inputs = {name: Path(snakemake.input[name]) for name in ("study", "finalists")}
    results = SearchResults.read(inputs["study"], settings["n_trials"])
    rule = results.selection_rule(settings)
    finalists = Finalists.of(FinalistsFile.read(inputs["finalists"]))
    chosen, finalist, reason = choose_finalist(results.records, finalists, rule)
    log.info("Trial %d, %s", chosen.number, reason)
    facts = provenance(settings, inputs)
    best = results.best(chosen, finalist, rule, reason, facts)
    if names := best.unimproved():
        log.warning(NO_EFFECT, ", ".join(names))
    best.write(Path(snakemake.output[0]))

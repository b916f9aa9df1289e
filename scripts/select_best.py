"""Select one trial from the Pareto front of the search's objectives."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_json, write_json
from heretic.console import job, log
from heretic.phases import unchanged_phase
from heretic.search.finalists import Finalists, SelectionRule, choose_finalist
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Write the selected trial, its edit by layer, and the reason for the selection."""
    settings = smk.params.settings
    inputs = {name: Path(smk.input[name]) for name in ("study", "finalists")}
    study = read_json(inputs["study"])
    records = [TrialRecord.from_dict(record) for record in study["trials"]][: settings["n_trials"]]
    objectives = [Objective.from_dict(each) for each in study["objectives"]]
    choice = SelectionRule(settings["select"], settings["select_max_kl"], objectives)
    finals = Finalists.from_dict(read_json(inputs["finalists"]))
    chosen, finalist, reason = choose_finalist(records, finals, choice)
    log.info("Trial %d, %s", chosen.number, reason)
    parameters = chosen.parameters
    write_json(
        Path(smk.output[0]),
        {
            "trial": chosen.number,
            "parameters": parameters.to_dict(),
            "scores": finalist.scores,
            "search_scores": finalist.search_scores,
            "baseline": study["baseline"],
            # Facts that an export needs without loading the model.
            "model": study["model"],
            "rule": choice.rule,
            "selection": reason,
            "objectives": study["objectives"],
            "study": study["study"],
            "n_trials": len(records),
            "strengths": parameters.strengths(study["n_layers"]),
            "directions": {
                "scope": parameters.direction_scope,
                "index": parameters.direction_index,
            },
            "provenance": provenance(settings, inputs),
        },
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

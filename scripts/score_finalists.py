"""Re-score the best trials, on the weights as they would be saved.

Their matrices are W' = W - w d (d^T W) in float64, rounded once to the saved type, as written by
the export, whereas the search may have edited outputs or shared passes among trials.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.ablation.weight_editor import original_weights
from heretic.artifacts import provenance, read_json, read_tensors, write_json
from heretic.console import job, log
from heretic.engine.evaluator import Evaluator
from heretic.model.devices import set_threads
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model, load_model
from heretic.model.stream_writers.components import EMBEDDINGS
from heretic.model.template_date import read_chat
from heretic.phases import unchanged_phase
from heretic.prompts.prompt_sets import read_prompts
from heretic.scoring import ScoredPrompts
from heretic.scoring.scorer_set import make_scorer_set
from heretic.search.finalists import Finalist, Finalists, SelectionRule, score_finalists
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord
from heretic.search.rescoring import Rescoring, memory_blocker, rescoring_blocker

snakemake: Snakemake

Score = Callable[[TrialRecord], Finalist]


def main(smk: Snakemake) -> None:
    """Write the finalists of a rule with their scores from the search and after re-scoring."""
    settings = smk.params.settings
    inputs = {
        name: Path(smk.input[name])
        for name in ("good_evaluation_prompts", "bad_evaluation_prompts", "directions", "study")
    }
    study = read_json(inputs["study"])
    records = [TrialRecord.from_dict(record) for record in study["trials"]][: settings["n_trials"]]
    objectives = [Objective.from_dict(each) for each in study["objectives"]]
    choice = SelectionRule(settings["select"], settings["select_max_kl"], objectives)
    # Before a model is loaded: there may be no trial to select.
    next(choice.ranking(records))
    reason = rescoring_blocker(settings)
    if reason is None:
        set_threads(smk.config["runtime"][smk.wildcards.run]["threads"])
        model = searched_model(smk, study, records)
        reason = memory_blocker(model)
    score: Score = Finalist.of
    if reason is None:
        score = rescoring(smk, model, inputs, study["model"]).score
    else:
        log.info("Finalists not re-scored: %s", reason)
    found = score_finalists(records, choice, settings["n_finalists"], score)
    finals = Finalists(tuple(found), rescored=reason is None)
    write_json(
        Path(smk.output[0]),
        {**finals.to_dict(), "provenance": provenance(settings, inputs)},
    )


def searched_model(smk: Snakemake, study: dict[str, Any], records: list[TrialRecord]) -> Model:
    """Return the model of the search, in the data type in which it is saved."""
    runtime, settings = smk.config["runtime"][smk.wildcards.run], smk.params.settings
    changes = {
        "model": smk.params.model,
        "dtype": study["model"]["dtype"],
        **read_chat(Path(smk.input.chat)),
    }
    model = load_model(**{**runtime, **settings, **changes})
    edited = any(EMBEDDINGS in record.parameters.components for record in records)
    return with_embeddings(model) if edited else model


def rescoring(
    smk: Snakemake, model: Model, inputs: dict[str, Path], facts: dict[str, Any]
) -> Rescoring:
    """Return the scorer of trials by plain passes on the search's evaluation prompts."""
    runtime, settings = smk.config["runtime"][smk.wildcards.run], smk.params.settings
    good, bad = (read_prompts(path) for name, path in inputs.items() if name.endswith("_prompts"))
    texts = [prompt for path in smk.input.texts for prompt in read_prompts(Path(path))]
    scorer_set = make_scorer_set(settings["refusal_markers"], settings["scorers"])
    return Rescoring(
        Evaluator(
            model, ScoredPrompts(good, bad, texts), settings["max_response_length"], scorer_set
        ),
        original_weights(model, runtime["cache_weights"], runtime["cache_device"]),
        AblationDirections.from_tensors(read_tensors(inputs["directions"])),
        facts,
        settings["norm_preservation"],
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

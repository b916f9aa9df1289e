"""Re-score the best trials, on the weights as they would be saved.

Their matrices are W' = W - w d (d^T W) in float64, rounded once to the saved type, as written by
the export, whereas the search may have edited outputs or shared passes among trials.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.artifacts import provenance, read_tensors
from heretic.console import log
from heretic.model.model_phase import model_phase
from heretic.prompts.prompt_sets import read_prompts
from heretic.scoring import ScoredPrompts
from heretic.search.finalists import Finalist, Finalists, score_finalists
from heretic.search.rescoring import (
    Rescoring,
    load_searched_model,
    memory_blocker,
    rescoring_blocker,
)
from heretic.search.results import SearchResults

snakemake: Snakemake

with model_phase(snakemake) as job:
    files, settings = snakemake.input, job.settings
    names = ("good_evaluation_prompts", "bad_evaluation_prompts", "directions", "study")
    inputs = {name: Path(files[name]) for name in names}
    results = SearchResults.read(inputs["study"], settings["n_trials"])
    rule = results.selection_rule(settings)
    # Before a model is loaded: there may be no trial to select.
    next(rule.ranking(results.records))
    reason = rescoring_blocker(settings)
    if reason is None:
        model = load_searched_model(results, job.load_options)
        reason = memory_blocker(model)
    score = Finalist.of
    if reason is None:
        sets = [read_prompts(inputs[name]) for name in names[:2]]
        texts = [prompt for path in files.texts for prompt in read_prompts(Path(path))]
        prompts = ScoredPrompts(sets[0], sets[1], texts)
        directions = AblationDirections.from_tensors(read_tensors(inputs["directions"]))
        facts = results.file.model
        score = Rescoring.of(model, prompts, directions, facts, job.load_options).score
    else:
        log.info("Finalists not re-scored: %s", reason)
    found = score_finalists(results.records, rule, settings["n_finalists"], score)
    finalists = Finalists(tuple(found), rescored=reason is None)
    finalists.file(provenance(settings, inputs)).write(Path(snakemake.output[0]))

"""Search where and how strongly to ablate, by default for few refusals and little divergence.

Each trial edits W' = W - w d (d^T W), or several orthonormal d at once, from the pristine weights,
scores the first-token KL on good prompts and the refusals on bad ones, and is stored before the
next group of trials starts.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.ablation.records import check_adapter, record_writers
from heretic.artifacts import provenance, read_json, read_tensors, sha256_of, write_csv, write_json
from heretic.console import job, log
from heretic.engine.base import FeasibilityLimits, TrialEngine, TrialScores
from heretic.engine.choose import make_trial_engine
from heretic.errors import StudyError
from heretic.metrics import LOG_ODDS
from heretic.model.chat import ChatFormat
from heretic.model.checkpoint import locate, source_facts, tokenizer_files
from heretic.model.devices import set_threads
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import load_chat_of, load_model, model_facts
from heretic.model.prompt_lengths import require_lengths_of_run
from heretic.model.template_date import read_chat
from heretic.phases import read_phase, unchanged_phase
from heretic.prompts.prompt_sets import read_prompts
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.scorer_set import ScorerSet, make_scorer_set
from heretic.search.computation import describe
from heretic.search.loop import TrialLoop
from heretic.search.objectives import Objective
from heretic.search.records import agreement, trial_rows
from heretic.search.samplers import Sampling
from heretic.search.search_space import SearchSpace, usable_rows
from heretic.search.stored import N_LAYERS
from heretic.search.study import open_study, study_name
from heretic.search.study_objectives import directions_of, make_objectives
from heretic.search.warm_start import warm_starts
from heretic.search.warm_start_sources import (
    WarmStartTrial,
    load_family_file,
    load_previous_search,
)
from heretic.settings.prompt_sources import EVALUATION_SETS
from heretic.source_tracking import in_packages
from heretic.timing import StageTimer

snakemake: Snakemake

# Settings that determine which trials are tried, but not their scores.
HOW_MANY = (
    *("n_trials", "n_startup_trials", "early_stopping_patience", "trial_batch_size"),
    *("sampler", "sobol_startup"),
    *("warm_start", "warm_start_from"),
)
# Subpackages of the library that are involved in scoring.
SCORING = ("ablation", "engine", "model", "scoring")
ENGINE_SETTINGS = ("max_response_length", "edit_mode", "norm_preservation", "trial_batch_size")
ENGINE_RUNTIME = ("cache_weights", "cache_device", "activation_cache_gb")


def main(smk: Snakemake) -> None:
    """Continue the study of this objective to its end, then write its trials."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    settings = {**smk.params.settings, **read_chat(Path(smk.input.chat))}
    set_threads(runtime["threads"])
    inputs = {name: Path(smk.input[name]) for name in (*EVALUATION_SETS, "directions")}
    if smk.input.texts:
        inputs["texts"] = Path(smk.input.texts[0])
    directions = AblationDirections.from_tensors(read_tensors(inputs["directions"]))
    scorer_set = make_scorer_set(settings["refusal_markers"], settings["scorers"])
    # Sets not used by the search may have changed since the response prefix was determined.
    chat = load_chat_of(**{**runtime, **settings, "model": smk.params.model})
    require_lengths_of_run(chat, Path(smk.input.checked), settings["max_response_length"])
    known = known_edits(settings, smk)
    asked = objective(settings, inputs, directions, smk)
    name = study_name(asked)
    searched = directions_of(scorer_set, settings["objectives"])
    with open_study(Path(smk.params.database), name, searched) as study:
        engine = prepare(settings, runtime, inputs, directions, scorer_set, smk.params.model, chat)
        study.set_user_attr(N_LAYERS, engine.model.anatomy.n_layers)
        writers = record_writers(engine.model.anatomy)
        # Fail now rather than hours later in the export.
        check_adapter(smk.config["settings"][smk.wildcards.run]["export"], writers)
        baseline = engine.score([[]], FeasibilityLimits(), StageTimer())[0]
        objectives = make_objectives(
            scorer_set, settings["objectives"], engine.prompts, baseline, settings["max_kl"]
        )
        require_something_to_find(baseline, objectives, settings)
        loop = replace(
            make_loop(engine, objectives, directions, settings, known),
            original=baseline,
            computation=describe(engine, runtime),
        )
        records = loop.run(study, settings["n_trials"])
    facts, model = provenance(settings, inputs), engine.model
    write_csv(Path(smk.output.trials), trial_rows(records, objectives), facts)
    write_json(
        Path(smk.output.study),
        {
            "study": name,
            "n_layers": loop.space.n_layers,
            "model": {
                **model_facts(model),
                "writers": [w.to_dict() for w in writers],
                "shapes": [list(writer.shape) for writer in model.anatomy.writers],
                "weights": asked["weights"],
            },
            "engine": {
                "name": engine.name,
                "trial_batch_size": engine.trial_batch_size,
            },
            "computation": loop.computation,
            "baseline": {**baseline, "total": len(engine.prompts.bad)},
            "objectives": [each.to_dict() for each in objectives],
            "agreement": agreement(records),
            "n_trials": settings["n_trials"],
            "ended_early": len(records) < settings["n_trials"],
            "trials": [record.to_dict() for record in records],
            "provenance": facts,
        },
    )


def known_edits(settings: dict[str, Any], smk: Snakemake) -> list[WarmStartTrial]:
    """Return the warm starts, before the model is loaded, as a file may be invalid."""
    files = list(map(Path, smk.input.warm_starts))
    if settings["warm_start_from"]:
        return load_previous_search(files[0])
    if settings["warm_start"] == "auto":
        config = locate(smk.params.model, settings["model_revision"]) / "config.json"
        family = read_json(config).get("model_type")
        files = [path for path in files if path.stem == family]
    return [edit for path in files for edit in load_family_file(path)]


def require_something_to_find(
    baseline: TrialScores, objectives: list[Objective], settings: dict[str, Any]
) -> None:
    """Reject a search whose original cannot be improved, and a limit that nothing can exceed."""
    told = {each.name: baseline[each.name] for each in objectives}
    log.info("The original's scores: %s", ", ".join(f"{k} {v:.4g}" for k, v in told.items()))
    if settings["max_refusal_log_odds"] is not None and baseline[LOG_ODDS] is None:
        raise StudyError(
            "max_refusal_log_odds needs first tokens that distinguish refusals, but good and bad "
            "responses start alike; unset it"
        )
    if "unanswered" in told and not baseline["refusals"]:
        raise StudyError(
            "the original refuses none of bad_evaluation_prompts within "
            f"{settings['max_response_length']} tokens, so there is nothing to optimize; choose "
            "other prompts, set response_prefix for a model that thinks first, raise "
            "max_response_length, or name other objectives"
        )
    if all(each.share(each.value(baseline)) <= 0 for each in objectives):
        raise StudyError(
            f"the original model is already optimal in {', '.join(told)}, so there is nothing to "
            "optimize; choose other prompts or other objectives"
        )


def objective(
    settings: dict[str, Any],
    inputs: dict[str, Path],
    directions: AblationDirections,
    smk: Snakemake,
) -> dict[str, Any]:
    """Return everything that determines a trial's scores; each objective has its own study."""
    revision = settings["model_revision"]
    folder = locate(smk.params.model, revision)
    return {
        "settings": {key: value for key, value in settings.items() if key not in HOW_MANY},
        "inputs": {
            # The origin of directions does not matter if their values are the same.
            name: directions.sha256 if name == "directions" else sha256_of(path)
            for name, path in inputs.items()
        },
        "weights": source_facts("", revision, folder)["sha256"],
        "tokenizer": {
            path.relative_to(folder).as_posix(): sha256_of(path) for path in tokenizer_files(folder)
        },
        # Changes to other modules must not invalidate a study's trials.
        "code": in_packages(read_phase(Path(smk.input.phase)).code, SCORING),
        "scorers": {path: sha256_of(Path(path)) for path in smk.input.scorers},
    }


def prepare(
    settings: dict[str, Any],
    runtime: dict[str, Any],
    inputs: dict[str, Path],
    directions: AblationDirections,
    scorer_set: ScorerSet,
    path: str,
    chat: ChatFormat,
) -> TrialEngine:
    """Load the model and its prompts, and create the engine that scores trials."""
    usable_rows(directions, settings["discriminative_layers"])  # before the model is loaded
    model = load_model(**{**runtime, **settings, "model": path}, chat=chat)
    if settings["ablate_embeddings"]:
        model = with_embeddings(model)
    sets = [read_prompts(inputs[n]) for n in (*EVALUATION_SETS, "texts") if n in inputs]
    return make_trial_engine(
        model,
        ScoredPrompts(*sets),
        scorer_set,
        directions=directions,
        **{name: settings[name] for name in ENGINE_SETTINGS},
        **{name: runtime[name] for name in ENGINE_RUNTIME},
    )


def make_loop(
    engine: TrialEngine,
    objectives: list[Objective],
    directions: AblationDirections,
    settings: dict[str, Any],
    known: list[WarmStartTrial],
) -> TrialLoop:
    """Create the loop over trials."""
    space = SearchSpace.from_settings(
        settings,
        engine.model.anatomy.n_layers,
        usable_rows(directions, settings["discriminative_layers"]),
    )
    asked_for = settings["warm_start_from"] or settings["warm_start"] != "auto"
    return TrialLoop(
        space=space,
        directions=directions,
        engine=engine,
        limits=FeasibilityLimits(settings["max_kl"], settings["max_refusal_log_odds"]),
        objectives=objectives,
        sampling=Sampling.from_settings(settings),
        patience=settings["early_stopping_patience"],
        warm_starts=warm_starts(
            known, space, settings["n_startup_trials"], required=bool(asked_for)
        ),
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

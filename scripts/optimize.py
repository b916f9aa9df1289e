"""Searches where and how strongly to ablate: fewest refusals at the smallest divergence.

Each trial edits W' = W - w d (d^T W), or several orthonormal d at once, from the pristine weights,
scores the first-token KL on good prompts and the refusals among bad ones, and is stored before
others start than those that are scored together with it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.ablation.recorded import check_adapter, record_writers
from heretic.artifacts import provenance, read_json, read_tensors, sha256_of, write_csv, write_json
from heretic.console import job, log
from heretic.errors import StudyError
from heretic.evaluation.engine_choice import make_trial_engine
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import load_model, model_facts
from heretic.model.source import locate, source_facts, tokenizer_files
from heretic.model.threads import set_threads
from heretic.optimization.known_edits import (
    N_LAYERS,
    KnownEdit,
    earlier_edits,
    family_edits,
)
from heretic.optimization.records import trial_rows
from heretic.optimization.samplers import Sampling
from heretic.optimization.search_space import SearchSpace, usable_rows
from heretic.optimization.study import open_study, study_name
from heretic.optimization.trials import TrialLoop
from heretic.optimization.warm_start import warm_starts
from heretic.prompts.bundle import read_prompts
from heretic.stages import StageClock

snakemake: Snakemake

# Settings that say which trials are tried, but not what one scores.
HOW_MANY = (
    *("n_trials", "patience", "trials_in_flight", "sampler", "quasi_random_start"),
    *("warm_start", "warm_start_from"),
)
ENGINE_SETTINGS = ("max_response_length", "engine", "norm_preservation", "trials_in_flight")
ENGINE_RUNTIME = ("cache_weights", "cache_device", "activation_cache_gb")


def main(smk: Snakemake) -> None:
    """Continue the study of this objective up to its end, then write its trials."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    chat = read_json(Path(smk.input.chat))
    settings = {**smk.params.settings, "response_prefix": chat["response_prefix"]}
    set_threads(runtime["threads"])
    inputs = {
        name: Path(smk.input[name])
        for name in ("good_evaluation_prompts", "bad_evaluation_prompts", "directions")
    }
    directions = AblationDirections.from_tensors(read_tensors(inputs["directions"]))
    known = known_edits(settings, smk)
    name = study_name(objective(settings, inputs, directions, smk))
    with open_study(Path(smk.params.database), name) as study:
        loop = prepare(settings, runtime, inputs, directions, smk.params.model, known)
        study.set_user_attr(N_LAYERS, loop.space.n_layers)
        writers = record_writers(loop.engine.model.anatomy)
        # Hours before the export would refuse.
        check_adapter(smk.config["settings"][smk.wildcards.run]["export"], writers)
        baseline = loop.engine.score([[]], None, StageClock())[0]
        require_refusals(baseline.refusals, settings)
        loop = replace(loop, unanswered_before=baseline.unanswered)
        records = loop.run(study, settings["n_trials"])
    facts, model = provenance(settings, inputs), loop.engine.model
    weights = source_facts("", settings["model_revision"], model.folder)["sha256"]
    write_csv(Path(smk.output.trials), trial_rows(records), facts)
    write_json(
        Path(smk.output.study),
        {
            "study": name,
            "n_layers": loop.space.n_layers,
            "model": {
                **model_facts(model),
                "writers": [w.to_dict() for w in writers],
                "shapes": [list(writer.shape) for writer in model.anatomy.writers],
                "weights": weights,
            },
            "engine": {
                "name": loop.engine.name,
                "trials_in_flight": loop.engine.trials_in_flight,
            },
            "baseline": {**baseline.to_dict(), "total": loop.engine.n_bad},
            "ended_early": len(records) < settings["n_trials"],
            "trials": [record.to_dict() for record in records],
            "provenance": facts,
        },
    )


def known_edits(settings: dict[str, Any], smk: Snakemake) -> list[KnownEdit]:
    """What is tried first, before the model is loaded, since a file may be wrong."""
    files = list(map(Path, smk.input.warm_starts))
    if settings["warm_start_from"]:
        return earlier_edits(files[0])
    if settings["warm_start"] == "auto":
        config = locate(smk.params.model, settings["model_revision"]) / "config.json"
        family = read_json(config).get("model_type")
        files = [path for path in files if path.stem == family]
    return [edit for path in files for edit in family_edits(path)]


def require_refusals(refusals: int | None, settings: dict[str, Any]) -> None:
    """Refuse a search that has nothing to find."""
    log.info("The original refuses %s of its bad prompts", refusals)
    if not refusals:
        raise StudyError(
            "the original refuses none of bad_evaluation_prompts within "
            f"{settings['max_response_length']} tokens, so there is nothing to search; choose "
            "other prompts, set response_prefix for a model that thinks first, or raise "
            "max_response_length"
        )


def objective(
    settings: dict[str, Any],
    inputs: dict[str, Path],
    directions: AblationDirections,
    smk: Snakemake,
) -> dict[str, Any]:
    """What decides the score of given parameters; another objective is another study."""
    revision = settings["model_revision"]
    folder = locate(smk.params.model, revision)
    return {
        "settings": {key: value for key, value in settings.items() if key not in HOW_MANY},
        "inputs": {
            # How directions were found does not matter, if they are the same.
            name: directions.sha256 if name == "directions" else sha256_of(path)
            for name, path in inputs.items()
        },
        "weights": source_facts("", revision, folder)["sha256"],
        "tokenizer": {path.name: sha256_of(path) for path in tokenizer_files(folder)},
        "source": {
            f"{path.parent.name}/{path.name}": sha256_of(path)
            for path in map(Path, smk.input.code)
            if scores(path)
        },
    }


def scores(path: Path) -> bool:
    """Whether a module takes part in scoring; another one must not cost a study its trials."""
    return path.parent.name in ("ablation", "evaluation", "inference", "model")


def prepare(
    settings: dict[str, Any],
    runtime: dict[str, Any],
    inputs: dict[str, Path],
    directions: AblationDirections,
    path: str,
    known: list[KnownEdit],
) -> TrialLoop:
    """Load the model and its prompts, and what scores trials on them."""
    rows = usable_rows(directions, settings["discriminative_layers"])
    model = load_model(**{**runtime, **settings, "model": path})
    if settings["ablate_embeddings"]:
        model = with_embeddings(model)
    good = read_prompts(inputs["good_evaluation_prompts"])
    bad = read_prompts(inputs["bad_evaluation_prompts"])
    engine = make_trial_engine(
        model,
        good,
        bad,
        directions=directions,
        **{name: settings[name] for name in ENGINE_SETTINGS},
        **{name: runtime[name] for name in ENGINE_RUNTIME},
    )
    space = SearchSpace(
        model.anatomy.n_layers,
        settings["direction_scope"],
        settings["max_weight"],
        rows,
        settings["ablate_embeddings"],
        settings["search_space"],
        settings["min_weight"],
        tuple(settings["edited_depth"]),
        tuple(settings["direction_depth"]),
    )
    asked_for = settings["warm_start_from"] or settings["warm_start"] != "auto"
    return TrialLoop(
        space=space,
        directions=directions,
        engine=engine,
        max_kl=settings["max_kl"],
        sampling=Sampling(
            settings["seed"],
            settings["n_startup_trials"],
            settings["sampler"],
            settings["quasi_random_start"],
        ),
        patience=settings["patience"],
        warm_starts=warm_starts(
            known, space, settings["n_startup_trials"], required=bool(asked_for)
        ),
    )


with job(snakemake.log[0]):
    main(snakemake)

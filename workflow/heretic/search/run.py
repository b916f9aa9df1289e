"""A search from its settings and files: the identity of its study, its engine and its loop."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heretic.ablation.directions import AblationDirections
from heretic.ablation.records import RecordedWriter
from heretic.artifact_types import SearchFile
from heretic.artifacts import read_json, sha256_of
from heretic.console import log
from heretic.engine.base import FeasibilityLimits, TrialEngine, TrialScores
from heretic.engine.choose import make_trial_engine
from heretic.errors import StudyError
from heretic.metrics import LOG_ODDS
from heretic.model.chat import ChatFormat
from heretic.model.checkpoint import source_facts, tokenizer_files
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import load_model, model_facts
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.scorer_set import ScorerSet
from heretic.search.computation import describe
from heretic.search.loop import TrialLoop
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord, log_odds_correlation
from heretic.search.samplers import Sampling
from heretic.search.search_space import SearchSpace, usable_rows
from heretic.search.study_objectives import make_objectives
from heretic.search.warm_start import warm_starts
from heretic.search.warm_start_sources import (
    WarmStartTrial,
    load_family_file,
    load_previous_search,
)
from heretic.source_tracking import in_packages
from heretic.timing import StageTimer

# Settings that determine which trials are tried, but not their scores.
SAMPLING_SETTINGS = (
    *("n_trials", "n_startup_trials", "early_stopping_patience", "trial_batch_size"),
    *("sampler", "sobol_startup"),
    *("warm_start", "warm_start_from"),
)
# Packages and modules whose code computes scores.
SCORING = ("ablation", "engine", "metrics.py", "model", "scorer_registry.py", "scoring")
ENGINE_SETTINGS = ("max_response_length", "edit_mode", "norm_preservation", "trial_batch_size")
ENGINE_RUNTIME = ("cache_weights", "cache_device", "activation_cache_gb")


def study_identity(
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    directions: AblationDirections,
    folder: Path,
    code: Mapping[str, str],
    scorers: Iterable[str],
) -> dict[str, Any]:
    """Return everything that determines a trial's scores; see `study_name`.

    Args:
        settings: settings of the search.
        inputs: prompt files by set, and the file of the directions.
        directions: content of the latter. Their origin does not matter if the values are equal.
        folder: folder of the model.
        code: fingerprints of the search's code. Code outside of `SCORING` is ignored, so that its
            changes do not invalidate a study's trials.
        scorers: files of custom scorers.
    """
    return {
        "settings": {k: value for k, value in settings.items() if k not in SAMPLING_SETTINGS},
        "inputs": {
            name: directions.sha256 if name == "directions" else sha256_of(path)
            for name, path in inputs.items()
        },
        "weights": source_facts("", settings["model_revision"], folder)["sha256"],
        "tokenizer": {
            path.relative_to(folder).as_posix(): sha256_of(path) for path in tokenizer_files(folder)
        },
        "code": in_packages(code, SCORING),
        "scorers": {path: sha256_of(Path(path)) for path in scorers},
    }


def load_warm_starts(
    settings: Mapping[str, Any], files: Sequence[Path], folder: Path
) -> list[WarmStartTrial]:
    """Return the warm starts of an earlier search, of a file, or of the model's family.

    Args:
        settings: values of `warm_start` and `warm_start_from`.
        files: files to read them from; with `auto`, one per model family, named after it.
        folder: folder of the model.

    Raises:
        SettingsError: a file is invalid.
        StudyError: the earlier search cannot be read.
    """
    if settings["warm_start_from"]:
        return load_previous_search(files[0])
    if settings["warm_start"] == "auto":
        family = read_json(folder / "config.json").get("model_type")
        files = [path for path in files if path.stem == family]
    return [trial for path in files for trial in load_family_file(path)]


def make_engine(
    settings: Mapping[str, Any],
    load_options: Mapping[str, Any],
    prompts: ScoredPrompts,
    directions: AblationDirections,
    scorer_set: ScorerSet,
    chat: ChatFormat,
) -> TrialEngine:
    """Load the model and create the engine that scores its trials.

    Raises:
        DirectionError: no direction is usable.
        ModelLoadError: the model cannot be loaded or edited.
    """
    usable_rows(directions, settings["discriminative_layers"])  # before the model is loaded
    model = load_model(**load_options, chat=chat)
    if settings["ablate_embeddings"]:
        model = with_embeddings(model)
    return make_trial_engine(
        model,
        prompts,
        scorer_set,
        directions=directions,
        **{name: settings[name] for name in ENGINE_SETTINGS},
        **{name: load_options[name] for name in ENGINE_RUNTIME},
    )


def check_original(
    original: TrialScores, objectives: Sequence[Objective], settings: Mapping[str, Any]
) -> None:
    """Reject a search whose original cannot be improved, and a limit that nothing can exceed.

    Args:
        original: scores of the original model.
        objectives: objectives of the search.
        settings: values of `max_refusal_log_odds` and `max_response_length`.

    Raises:
        StudyError: there is nothing to optimize, or the limit needs scores that do not exist.
    """
    found = {each.name: original[each.name] for each in objectives}
    log.info("The original's scores: %s", ", ".join(f"{k} {v:.4g}" for k, v in found.items()))
    if settings["max_refusal_log_odds"] is not None and original[LOG_ODDS] is None:
        raise StudyError(
            "max_refusal_log_odds needs first tokens that distinguish refusals, but good and bad "
            "responses start alike; unset it"
        )
    if "unanswered" in found and not original["refusals"]:
        raise StudyError(
            "the original refuses none of bad_evaluation_prompts within "
            f"{settings['max_response_length']} tokens, so there is nothing to optimize; choose "
            "other prompts, set response_prefix for a model that thinks first, raise "
            "max_response_length, or name other objectives"
        )
    if all(each.share(each.value(original)) <= 0 for each in objectives):
        raise StudyError(
            f"the original model is already optimal in {', '.join(found)}, so there is nothing to "
            "optimize; choose other prompts or other objectives"
        )


def make_loop(
    engine: TrialEngine,
    scorer_set: ScorerSet,
    directions: AblationDirections,
    settings: Mapping[str, Any],
    runtime: Mapping[str, Any],
    known: Sequence[WarmStartTrial],
) -> TrialLoop:
    """Score the original model and create the loop over trials.

    Args:
        engine: engine of a model in its original state.
        scorer_set: scorers of the trials.
        directions: directions to ablate.
        settings: settings of the search.
        runtime: settings that affect no result.
        known: warm starts, which are the first trials.

    Raises:
        StudyError: see `check_original`; or none of the requested warm starts applies.
    """
    original = engine.score([[]], FeasibilityLimits(), StageTimer())[0]
    objectives = make_objectives(
        scorer_set, settings["objectives"], engine.prompts, original, settings["max_kl"]
    )
    check_original(original, objectives, settings)
    space = SearchSpace.from_settings(
        settings,
        engine.model.anatomy.n_layers,
        usable_rows(directions, settings["discriminative_layers"]),
    )
    requested = settings["warm_start_from"] or settings["warm_start"] != "auto"
    return TrialLoop(
        space=space,
        directions=directions,
        engine=engine,
        limits=FeasibilityLimits(settings["max_kl"], settings["max_refusal_log_odds"]),
        objectives=objectives,
        sampling=Sampling.from_settings(settings),
        patience=settings["early_stopping_patience"],
        warm_starts=warm_starts(
            known, space, settings["n_startup_trials"], required=bool(requested)
        ),
        original=original,
        computation=describe(engine, runtime),
    )


def search_file(
    loop: TrialLoop,
    records: Sequence[TrialRecord],
    settings: Mapping[str, Any],
    *,
    study: str,
    weights: str,
    provenance: dict[str, Any],
) -> SearchFile:
    """Return the trials and the facts that the next phases need without loading the model.

    Args:
        loop: loop that ran the trials.
        records: the trials.
        settings: settings of the search.
        study: name of the study.
        weights: hash of the model's checkpoint.
        provenance: settings and inputs of the search.
    """
    engine, writers = loop.engine, loop.engine.model.anatomy.writers
    return SearchFile(
        study=study,
        n_layers=loop.space.n_layers,
        model={
            **model_facts(engine.model),
            "writers": [RecordedWriter.of(writer).to_dict() for writer in writers],
            "shapes": [list(writer.shape) for writer in writers],
            "weights": weights,
        },
        engine={"name": engine.name, "trial_batch_size": engine.trial_batch_size},
        computation=dict(loop.computation),
        baseline={**(loop.original or {}), "total": len(engine.prompts.bad)},
        objectives=[each.to_dict() for each in loop.objectives],
        agreement=log_odds_correlation(records),
        n_trials=settings["n_trials"],
        ended_early=len(records) < settings["n_trials"],
        trials=[record.to_dict() for record in records],
        provenance=provenance,
    )

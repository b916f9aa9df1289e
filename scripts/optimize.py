"""Search where and how strongly to ablate, by default for few refusals and little divergence.

Each trial edits W' = W - w d (d^T W), or several orthonormal d at once, from the original weights,
scores the first-token KL on good prompts and the refusals on bad ones, and is stored before the
next group of trials starts.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.ablation.records import check_adapter, record_writers
from heretic.artifacts import provenance, read_tensors, write_csv
from heretic.model.checkpoint import locate
from heretic.model.loading import load_chat_of
from heretic.model.model_phase import model_phase
from heretic.model.prompt_checks import require_usable_prompts
from heretic.phases import read_phase
from heretic.prompts.prompt_sets import read_prompts
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.scorer_set import make_scorer_set
from heretic.search import run
from heretic.search.records import trial_rows
from heretic.search.stored import N_LAYERS
from heretic.search.study import open_study, study_name
from heretic.search.study_objectives import directions_of
from heretic.settings.prompt_sources import EVALUATION_SETS

snakemake: Snakemake

with model_phase(snakemake) as job:
    files, settings = snakemake.input, job.settings
    prompts = {name: Path(files[name]) for name in EVALUATION_SETS}
    prompts |= {"texts": Path(files.texts[0])} if files.texts else {}
    inputs = {**prompts, "directions": Path(files.directions)}
    directions = AblationDirections.from_tensors(read_tensors(inputs["directions"]))
    scorers = make_scorer_set(settings["refusal_markers"], settings["scorers"])
    # Sets not used by the search may have changed since the response prefix was determined.
    chat = load_chat_of(**job.load_options)
    require_usable_prompts(chat, Path(files.checked), settings["max_response_length"])
    folder = locate(snakemake.params.model, settings["model_revision"])
    known = run.load_warm_starts(settings, list(map(Path, files.warm_starts)), folder)
    code = read_phase(Path(files.phase)).code
    identity = run.study_identity(settings, inputs, directions, folder, code, files.scorers)
    name, searched = study_name(identity), directions_of(scorers, settings["objectives"])
    with open_study(Path(snakemake.params.database), name, searched) as study:
        scored = ScoredPrompts(*map(read_prompts, prompts.values()))
        engine = run.make_engine(settings, job.load_options, scored, directions, scorers, chat)
        study.set_user_attr(N_LAYERS, engine.model.anatomy.n_layers)
        # Fail now rather than hours later in the export.
        export = snakemake.config["settings"][snakemake.wildcards.run]["export"]
        check_adapter(export, record_writers(engine.model.anatomy))
        loop = run.make_loop(engine, scorers, directions, settings, job.runtime, known)
        records = loop.run(study, settings["n_trials"])
    facts = provenance(settings, inputs)
    origin = {"study": name, "weights": identity["weights"], "provenance": facts}
    results = run.search_file(loop, records, settings, **origin)
    write_csv(Path(snakemake.output.trials), trial_rows(records, loop.objectives), facts)
    results.write(Path(snakemake.output.study))

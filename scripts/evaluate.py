"""Compare original, edited and control models on held-out prompts.

Rates have Wilson intervals, mean KL(original || model) bootstrap intervals; original and edited
model are compared by paired tests. The controls are an edit of strength zero, which must change
nothing, and the selected edit along random directions and along those of shuffled labels.
"""

from functools import partial
from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.artifact_types import Evaluation
from heretic.artifacts import provenance, read_json, read_tensors, write_jsonl
from heretic.directions.permuted_labels import control_directions
from heretic.evaluation.full_precision import with_full_precision
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.protocol import evaluate_edit
from heretic.export.adapter import load_edited
from heretic.model.loading import load_baseline, load_chat_of
from heretic.model.model_phase import model_phase
from heretic.model.prompt_checks import require_usable_prompts
from heretic.model.quantization import unquantized_original
from heretic.prompts.prompt_sets import read_prompts
from heretic.settings.prompt_sources import HOLDOUT_SETS, PROMPT_SETS

snakemake: Snakemake

with model_phase(snakemake) as job:
    settings, files, searched = job.settings, snakemake.input, snakemake.params.model
    inputs = {name: Path(path) for name, path in files.items() if name in PROMPT_SETS}
    directions = read_tensors(Path(files.directions))
    residuals = {name: path for name, path in inputs.items() if name not in HOLDOUT_SETS}
    shuffled = control_directions(residuals, settings, directions, job.runtime["device"])
    record = Path(files.edited[0])
    edited = partial(load_edited, record.parent)
    chat = load_chat_of(**job.load_options)
    require_usable_prompts(chat, Path(files.checked), settings["max_response_length"])
    options = {**job.runtime, **settings}
    original = {**options, **unquantized_original(settings, searched)}
    protocol = HoldoutProtocol.from_settings(settings)
    good, bad = (read_prompts(inputs[name]) for name in HOLDOUT_SETS)
    texts = [prompt for path in files.texts for prompt in read_prompts(Path(path))]
    result = evaluate_edit(
        load_original=lambda: load_baseline(**original),
        load_edited=lambda: edited(options, searched),
        record=read_json(record),
        directions=AblationDirections.from_tensors(directions),
        sets=HoldoutSets(good, bad, texts),
        protocol=protocol,
        cache_weights=job.runtime["cache_weights"],
        cache_device=job.runtime["cache_device"],
        shuffled_labels=shuffled,
    )
    inputs |= {"edited": record, "directions": Path(files.directions)}
    write_jsonl(Path(snakemake.output.answers), result.answers)
    table = with_full_precision(result.table, options, searched, edited, good, protocol)
    evaluation = Evaluation(**table, provenance=provenance(settings, inputs))
    evaluation.write(Path(snakemake.output.evaluation))

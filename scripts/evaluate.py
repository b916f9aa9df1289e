"""Compares original, edited and control models on held-out prompts.

Rates carry Wilson intervals, mean KL(original || model) bootstrap intervals. The controls are an
edit of strength zero, which must change nothing, and the chosen edit along random directions.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.ablation.directions import AblationDirections
from heretic.artifacts import provenance, read_json, read_tensors, write_json
from heretic.console import job
from heretic.evaluation.holdout import HoldoutSets
from heretic.evaluation.protocol import HoldoutProtocol, evaluate_edit
from heretic.export.adapter import load_edited
from heretic.model.loading import load_model
from heretic.model.quantization import unquantised_original
from heretic.model.threads import set_threads
from heretic.prompts.bundle import read_prompts

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Measure the saved model against the original and write the table."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    chat = read_json(Path(smk.input.chat))
    settings = {**smk.params.settings, "response_prefix": chat["response_prefix"]}
    set_threads(runtime["threads"])
    inputs = {
        name: Path(smk.input[name]) for name in ("good_holdout_prompts", "bad_holdout_prompts")
    }
    folder = Path(smk.input.edited[0]).parent
    options = {**runtime, **settings}
    original = {**options, **unquantised_original(settings, smk.params.model)}
    result = evaluate_edit(
        load_original=lambda: load_model(**original),
        load_edited=lambda: load_edited(folder, options, smk.params.model),
        record=read_json(Path(smk.input.edited[0])),
        directions=AblationDirections.from_tensors(read_tensors(Path(smk.input.directions))),
        sets=HoldoutSets(*(read_prompts(path) for path in inputs.values())),
        protocol=HoldoutProtocol.from_settings(settings),
        cache_weights=runtime["cache_weights"],
        cache_device=runtime["cache_device"],
    )
    inputs |= {"edited": Path(smk.input.edited[0]), "directions": Path(smk.input.directions)}
    write_json(Path(smk.output[0]), {**result, "provenance": provenance(settings, inputs)})


with job(snakemake.log[0]):
    main(snakemake)

"""Compare original, edited and control models on held-out prompts.

Rates have Wilson intervals, mean KL(original || model) bootstrap intervals; original and edited
model are compared by paired tests. The controls are an edit of strength zero, which must change
nothing, and the selected edit along random directions and along those of shuffled labels.
"""

from pathlib import Path

from snakemake.script import Snakemake
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.artifacts import provenance, read_json, read_tensors, write_json, write_jsonl
from heretic.console import job
from heretic.directions import ExtractionOptions, ResidualSets, shuffled_label_directions
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.protocol import evaluate_edit
from heretic.export.adapter import load_edited
from heretic.model.devices import set_threads
from heretic.model.loading import choose_device, load_chat_of, load_model
from heretic.model.prompt_lengths import require_lengths_of_run
from heretic.model.quantization import unquantized_original
from heretic.model.template_date import read_chat
from heretic.phases import unchanged_phase
from heretic.prompts.prompt_sets import read_prompts
from heretic.settings.prompt_sources import HOLDOUT_SETS, PROMPT_SETS

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Measure the saved model against the original and write the table."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    settings = {**smk.params.settings, **read_chat(Path(smk.input.chat))}
    set_threads(runtime["threads"])
    inputs = {name: Path(path) for name, path in smk.input.items() if name in PROMPT_SETS}
    directions = read_tensors(Path(smk.input.directions))
    shuffled = shuffled_labels(
        {name: path for name, path in inputs.items() if name not in HOLDOUT_SETS},
        ExtractionOptions.from_settings(settings),
        int(directions["position"]),
        runtime["device"],
    )
    folder = Path(smk.input.edited[0]).parent
    options = {**runtime, **settings}
    chat = load_chat_of(**{**options, "model": smk.params.model})
    require_lengths_of_run(chat, Path(smk.input.checked), settings["max_response_length"])
    original = {**options, **unquantized_original(settings, smk.params.model)}
    result = evaluate_edit(
        load_original=lambda: load_model(**original),
        load_edited=lambda: load_edited(folder, options, smk.params.model),
        record=read_json(Path(smk.input.edited[0])),
        directions=AblationDirections.from_tensors(directions),
        sets=HoldoutSets(
            *(read_prompts(inputs[name]) for name in HOLDOUT_SETS),
            [prompt for path in smk.input.texts for prompt in read_prompts(Path(path))],
        ),
        protocol=HoldoutProtocol.from_settings(settings),
        cache_weights=runtime["cache_weights"],
        cache_device=runtime["cache_device"],
        shuffled_labels=shuffled,
    )
    inputs |= {"edited": Path(smk.input.edited[0]), "directions": Path(smk.input.directions)}
    write_jsonl(Path(smk.output.answers), result.answers)
    facts = provenance(settings, inputs)
    write_json(Path(smk.output.evaluation), {**result.table, "provenance": facts})


def shuffled_labels(
    residuals: dict[str, Path], options: ExtractionOptions, position: int, device: str
) -> Tensor | None:
    """Return the third control's directions, freeing the states before a model is loaded."""
    sets = ResidualSets.from_tensors({n: read_tensors(path) for n, path in residuals.items()})
    return shuffled_label_directions(sets, options, position, choose_device(device))


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

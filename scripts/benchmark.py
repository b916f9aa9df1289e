"""Score the edited model on the benchmarks and compare it with the original."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_json, sha256_of, write_json
from heretic.benchmarks.lm_eval import answers_file, load_benchmarks, score_benchmarks
from heretic.benchmarks.scores import BenchmarkProtocol, compare
from heretic.console import job
from heretic.export.adapter import load_edited
from heretic.model.devices import set_threads
from heretic.model.template_date import read_chat
from heretic.phases import unchanged_phase

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Load the saved model, score it, and write both models' scores."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    settings = {**smk.params.settings, **read_chat(Path(smk.input.chat))}
    set_threads(runtime["threads"])
    inputs = {"original": Path(smk.input.original[0]), "edited": Path(smk.input.edited[0])}
    protocol = BenchmarkProtocol.from_settings(settings)
    benchmarks = load_benchmarks(protocol)
    model = load_edited(inputs["edited"].parent, {**runtime, **settings}, smk.params.model)
    answers = answers_file(inputs["original"].parent, sha256_of(inputs["edited"]), model)
    scores = score_benchmarks(model, benchmarks, protocol, answers)
    table = compare(read_json(inputs["original"]), scores)
    write_json(Path(smk.output[0]), {**table, "provenance": provenance(settings, inputs)})


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

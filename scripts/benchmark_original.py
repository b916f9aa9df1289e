"""Score the original model on the benchmarks, once for all edits and picks."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.benchmarks.lm_eval import answers_file, load_benchmarks, score_benchmarks
from heretic.benchmarks.scores import BenchmarkProtocol
from heretic.console import job
from heretic.model.checkpoint import source_facts
from heretic.model.devices import set_threads
from heretic.model.loading import load_model
from heretic.model.quantization import unquantized_original
from heretic.model.template_date import read_chat
from heretic.phases import unchanged_phase

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Load the original as for the held-out table, and write its scores."""
    runtime = smk.config["runtime"][smk.wildcards.run]
    settings = {**smk.params.settings, **read_chat(Path(smk.input.chat))}
    set_threads(runtime["threads"])
    protocol = BenchmarkProtocol.from_settings(settings)
    benchmarks = load_benchmarks(protocol)
    original = unquantized_original(settings, smk.params.model)
    model = load_model(**{**runtime, **settings, **original})
    weights = source_facts(original["model"], None, model.folder)["sha256"]
    target = Path(smk.output[0])
    answers = answers_file(target.parent, weights, model)
    scores = score_benchmarks(model, benchmarks, protocol, answers)
    write_json(target, {**scores, "provenance": provenance(settings, {})})


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

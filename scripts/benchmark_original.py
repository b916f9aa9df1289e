"""Score the original model on the benchmarks, once for all edits and picks."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.benchmarks.lm_eval import answers_file, load_benchmarks, score_benchmarks
from heretic.benchmarks.scores import BenchmarkProtocol
from heretic.model.checkpoint import source_facts
from heretic.model.loading import load_baseline
from heretic.model.model_phase import model_phase
from heretic.model.quantization import unquantized_original

snakemake: Snakemake

with model_phase(snakemake) as job:
    protocol = BenchmarkProtocol.from_settings(job.settings)
    benchmarks = load_benchmarks(protocol)
    # As for the held-out table.
    original = unquantized_original(job.settings, snakemake.params.model)
    model = load_baseline(**{**job.load_options, **original})
    weights = source_facts(original["model"], None, model.folder)["sha256"]
    target = Path(snakemake.output[0])
    answers = answers_file(target.parent, weights, model)
    scores = score_benchmarks(model, benchmarks, protocol, answers)
    write_json(target, {**scores, "provenance": provenance(job.settings, {})})

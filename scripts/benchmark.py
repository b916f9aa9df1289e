"""Score the edited model on the benchmarks and compare it with the original."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_json, sha256_of, write_json
from heretic.benchmarks.lm_eval import answers_file, load_benchmarks, score_benchmarks
from heretic.benchmarks.scores import BenchmarkProtocol, compare
from heretic.export.adapter import load_edited
from heretic.model.model_phase import model_phase

snakemake: Snakemake

with model_phase(snakemake) as job:
    inputs = {name: Path(snakemake.input[name][0]) for name in ("original", "edited")}
    protocol = BenchmarkProtocol.from_settings(job.settings)
    benchmarks = load_benchmarks(protocol)
    model = load_edited(
        inputs["edited"].parent, {**job.runtime, **job.settings}, snakemake.params.model
    )
    answers = answers_file(inputs["original"].parent, sha256_of(inputs["edited"]), model)
    scores = score_benchmarks(model, benchmarks, protocol, answers)
    table = compare(read_json(inputs["original"]), scores)
    facts = provenance(job.settings, inputs)
    write_json(Path(snakemake.output[0]), {**table, "provenance": facts})

"""Write the model card with the held-out results, and the manifest of the saved model."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_json, write_json, write_text
from heretic.console import job, log
from heretic.export.manifest import manifest
from heretic.export.model_card import model_card
from heretic.phases import unchanged_phase
from heretic.prompts.prompt_sets import FINGERPRINT_SUFFIX

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Write the card, then the hashes of all files."""
    record_file, evaluation_file = Path(smk.input.record[0]), Path(smk.input.evaluation)
    folder, record = record_file.parent, read_json(record_file)
    best = read_json(Path(smk.input.best[0]))
    prompts = {
        path.name.removesuffix(FINGERPRINT_SUFFIX): read_json(path)
        for path in map(Path, smk.input.prompts)
    }
    prefix = read_json(Path(smk.input.chat))["response_prefix"]
    scores = [read_json(Path(path)) for path in smk.input.benchmarks]  # at most one
    card = model_card(record, read_json(evaluation_file), best, prompts, prefix, *scores)
    write_text(folder / "README.md", card)
    files = manifest(folder)
    log.info("%d files, %.1f MB", len(files), sum(f["bytes"] for f in files.values()) / 1e6)
    write_json(
        Path(smk.output[0]),
        {
            "files": files,
            "parameters": record["parameters"],
            "source": {k: v for k, v in record["source"].items() if k != "card"},
            "prompts": prompts,
            "provenance": provenance(
                smk.params.settings, {"record": record_file, "evaluation": evaluation_file}
            ),
        },
    )


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

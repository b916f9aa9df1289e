"""Write the model card with the held-out results, and the manifest of the saved model."""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifact_types import Best, Evaluation, ModelManifest
from heretic.artifacts import provenance, read_json, write_text
from heretic.console import log
from heretic.export.manifest import manifest
from heretic.export.model_card import model_card
from heretic.phase_job import phase
from heretic.prompts.prompt_sets import FINGERPRINT_SUFFIX

snakemake: Snakemake

with phase(snakemake) as settings:
    files = snakemake.input
    inputs = {"record": Path(files.record[0]), "evaluation": Path(files.evaluation)}
    folder, record = inputs["record"].parent, read_json(inputs["record"])
    prompts = {
        path.name.removesuffix(FINGERPRINT_SUFFIX): read_json(path)
        for path in map(Path, files.prompts)
    }
    card = model_card(
        record,
        Evaluation.read(inputs["evaluation"]).to_dict(),
        Best.read(Path(files.best[0])),
        prompts,
        read_json(Path(files.chat))["response_prefix"],
        *(read_json(Path(path)) for path in files.benchmarks),  # at most one
    )
    write_text(folder / "README.md", card)
    saved = manifest(folder)
    log.info("%d files, %.1f MB", len(saved), sum(f["bytes"] for f in saved.values()) / 1e6)
    ModelManifest(
        files=saved,
        parameters=record["parameters"],
        source={k: v for k, v in record["source"].items() if k != "card"},
        prompts=prompts,
        provenance=provenance(settings, inputs),
    ).write(Path(snakemake.output[0]))

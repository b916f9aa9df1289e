"""Train the demo model: a small language model with a planted, harmless refusal."""

from pathlib import Path
from typing import Any

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_json, write_json
from heretic.console import ProgressLine, duration, log
from heretic.demo.train import train_demo_model
from heretic.export.manifest import manifest
from heretic.phase_job import phase

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Train into the folder next to the manifest, which is written last."""
    settings, target = smk.params.settings, Path(smk.output[0])
    folder = target.with_name(target.name.removesuffix(".manifest.json"))
    # Snakemake deletes a manifest before its job, even one just written by a concurrent run; a copy
    # indicates that the model exists, and its recipe.
    copy = target.with_name(f".{target.name}")
    recipe = read_json(Path(smk.input.phase))
    if copy.is_file():
        known = read_json(copy)
        if known["recipe"] == recipe and folder.is_dir() and known["files"] == manifest(folder):
            log.info("Already trained by another run")
            write_json(target, {k: v for k, v in known.items() if k != "recipe"})
            return
    facts = train(folder, settings)
    payload = {"files": manifest(folder), "facts": facts, "provenance": provenance(settings, {})}
    write_json(copy, {**payload, "recipe": recipe})
    write_json(target, payload)


def train(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the model and return facts about it."""
    steps = settings["demo_steps"]
    with ProgressLine("Training the demo model", steps) as progress:
        facts = train_demo_model(
            folder,
            seed=settings["seed"],
            family=settings["demo_family"],
            planted=settings["demo_refusal_class"],
            steps=steps,
            threads=1,  # small matrices: a second thread would slow them down
            progress=lambda step, _, loss: progress.advance(
                step - progress.done, note=f"loss {loss:.3f}"
            ),
        )
    # With the seconds in the manifest, the same model would look new to every rule that reads it.
    log.info("Trained in %s", duration(facts.pop("seconds")))
    return facts


# Concurrent runs share the model: one trains it, and the others wait for it.
with phase(snakemake, wait=True):
    main(snakemake)

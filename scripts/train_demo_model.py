"""Trains the demo model: a small language model with a planted, harmless refusal."""

from pathlib import Path

from filelock import FileLock
from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.console import ProgressLine, duration, job, log
from heretic.demo.train import train_demo_model
from heretic.export.manifest import manifest

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Train into the folder beside the manifest, which is written last."""
    settings, target = smk.params.settings, Path(smk.output[0])
    folder = target.with_name(target.name.removesuffix(".manifest.json"))
    steps = settings["demo_steps"]
    lock = FileLock(target.with_name(f".{folder.name}.lock"))
    with lock, ProgressLine("Training the demo model", steps) as progress:
        facts = train_demo_model(
            folder,
            seed=settings["seed"],
            steps=steps,
            threads=1,  # small matrices: a second thread makes it slower, not faster
            progress=lambda step, _, loss: progress.advance(
                step - progress.done, note=f"loss {loss:.3f}"
            ),
        )
    # Seconds would make the same model a new one to every rule that reads the manifest.
    log.info("Trained in %s", duration(facts.pop("seconds")))
    payload = {"files": manifest(folder), "facts": facts, "provenance": provenance(settings, {})}
    write_json(target, payload)


with job(snakemake.log[0]):
    main(snakemake)

"""Finds the direction that tells good from bad prompts in each layer.

d_l = mean h_l(bad) - mean h_l(good), or the top eigenvector of C_bad - alpha C_good, made
orthogonal to what is to be protected, and normalised.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_tensors, write_csv, write_tensors
from heretic.console import job, log
from heretic.directions.extract import ExtractionOptions, extract_directions
from heretic.directions.geometry import geometry_rows
from heretic.model.threads import set_threads
from heretic.settings.prompt_sources import DIRECTION_SETS, OPTIONAL_SETS

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Compute directions and the geometry that says how far to trust them."""
    settings = smk.params.settings
    set_threads(smk.config["runtime"][smk.wildcards.run]["threads"])
    used = dict(smk.input.items())
    names = [name for name in DIRECTION_SETS + OPTIONAL_SETS if name in used]
    paths = {name: Path(used[name]) for name in names}
    residuals = {name: read_tensors(path)["residuals"] for name, path in paths.items()}
    good, bad = residuals["good_prompts"], residuals["bad_prompts"]
    result = extract_directions(
        good,
        bad,
        ExtractionOptions.from_settings(settings),
        unhelpfulness=residuals.get("unhelpfulness_prompts"),
        sacred=residuals.get("sacred_prompts"),
    )
    rows = geometry_rows(bad, good, result.refusal_directions, settings["seed"])
    best = max(rows, key=lambda row: (row["auroc"], row["silhouette"]))
    log.info("Separation is best at state %d: AUROC %.3f", best["layer"], best["auroc"])
    facts = provenance(settings, paths)
    write_csv(Path(smk.output.geometry), rows, facts)
    write_tensors(Path(smk.output.directions), result.tensors(), facts)


with job(snakemake.log[0]):
    main(snakemake)

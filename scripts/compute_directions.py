"""Compute the directions that distinguish good from bad prompts in each layer.

d_l = mean h_l(bad) - mean h_l(good), the top eigenvectors of C_bad - alpha C_good, the axes of
paired differences, a probe's normals or an ensemble of these; orthogonalized to the protected
directions, normalized, and evaluated on held-out prompts.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_tensors, write_csv, write_tensors
from heretic.console import job, log
from heretic.directions import (
    ExtractionOptions,
    ResidualSets,
    extract_directions,
    geometry_rows,
)
from heretic.model.devices import set_threads
from heretic.model.loading import choose_device
from heretic.phases import unchanged_phase
from heretic.settings.prompt_sources import PROMPT_SETS

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Compute directions and the geometry that measures their reliability."""
    settings, runtime = smk.params.settings, smk.config["runtime"][smk.wildcards.run]
    set_threads(runtime["threads"])
    paths = {name: Path(path) for name, path in smk.input.items() if name in PROMPT_SETS}
    sets = ResidualSets.from_tensors({name: read_tensors(path) for name, path in paths.items()})
    options = ExtractionOptions.from_settings(settings)
    result = extract_directions(sets, options, choose_device(runtime["device"]))
    rows = geometry_rows(sets, result)
    best = max(rows, key=lambda row: (row["auroc"], row["cohens_d"]))
    weak = [row["layer"] - 1 for row in rows[1:] if not row["discriminative"]]
    log.info(
        "Separation of held-out prompts is best at state %d: AUROC %.3f (chance: up to %.3f)",
        best["layer"],
        best["auroc"],
        best["chance_high"],
    )
    if weak:
        log.warning("Not better than chance after layers %s", ", ".join(map(str, weak)))
    facts = provenance(settings, paths)
    write_csv(Path(smk.output.geometry), rows, facts)
    write_tensors(Path(smk.output.directions), result.tensors(), facts)


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

"""Compute the directions that distinguish good from bad prompts in each layer.

d_l = mean h_l(bad) - mean h_l(good), the top eigenvectors of C_bad - alpha C_good, the axes of
paired differences, a probe's normals or an ensemble of these; orthogonalized to the protected
directions, normalized, and evaluated on held-out prompts.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, read_tensors, write_csv, write_tensors
from heretic.directions import (
    ExtractionOptions,
    ResidualSets,
    extract_directions,
    geometry_rows,
)
from heretic.directions.separation import log_separation
from heretic.model.loading import choose_device
from heretic.model.model_phase import model_phase
from heretic.settings.prompt_sources import PROMPT_SETS

snakemake: Snakemake

with model_phase(snakemake) as job:
    items = snakemake.input.items()
    paths = {name: Path(path) for name, path in items if name in PROMPT_SETS}
    sets = ResidualSets.from_tensors({name: read_tensors(path) for name, path in paths.items()})
    options = ExtractionOptions.from_settings(job.settings)
    result = extract_directions(sets, options, choose_device(job.runtime["device"]))
    rows = geometry_rows(sets, result)
    log_separation(rows)
    facts = provenance(job.settings, paths)
    write_csv(Path(snakemake.output.geometry), rows, facts)
    write_tensors(Path(snakemake.output.directions), result.tensors(), facts)

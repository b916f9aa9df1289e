"""Finds the text with which all answers of the model begin, or takes the one that is set.

Every later phase appends it to the prompts, so it is found once a run.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.console import job, log
from heretic.model.loading import load_model
from heretic.model.response_prefix import find_response_prefix
from heretic.model.threads import set_threads
from heretic.phases import unchanged_phase
from heretic.prompts.bundle import read_prompts
from heretic.settings.input_fields import AUTO_PREFIX

snakemake: Snakemake


def main(smk: Snakemake) -> None:
    """Write the prefix; the model is loaded only where it has to be asked."""
    settings, runtime = smk.params.settings, smk.config["runtime"][smk.wildcards.run]
    inputs = {name: Path(smk.input[name]) for name in ("good_prompts", "bad_prompts")}
    prefix, found = settings["response_prefix"], settings["response_prefix"] == AUTO_PREFIX
    if found:
        set_threads(runtime["threads"])
        model = load_model(**{**runtime, **settings, "model": smk.params.model})
        prefix = find_response_prefix(model, *(read_prompts(path) for path in inputs.values()))
    log.info("Answers are taken to begin with %r", prefix)
    facts = provenance(settings, inputs if found else {})
    write_json(Path(smk.output[0]), {"response_prefix": prefix, "provenance": facts})


with (
    job(snakemake.log[0]),
    unchanged_phase(snakemake.input.phase, snakemake.params.settings),
):
    main(snakemake)

"""Find the common prefix of all of the model's answers, and a data type that works.

Every later phase appends it to the prompts, so it is determined once per run, as is the date in the
chat template, if any. Prompts are first tokenized here, so those that are too long or contain
special tokens are rejected here. With `dtype: auto`, a sample of them decides on the data type.
"""

from pathlib import Path

from snakemake.script import Snakemake

from heretic.artifacts import provenance, write_json
from heretic.console import log
from heretic.model.loading import load_chat_of, load_model
from heretic.model.model_phase import model_phase
from heretic.model.network import AUTO
from heretic.model.prompt_checks import require_usable_prompts, sample_of
from heretic.model.response_prefix import find_response_prefix
from heretic.model.template_date import settle_date
from heretic.model.template_warnings import warn_of_template_of_run
from heretic.prompts.prompt_sets import read_prompts
from heretic.settings.types import AUTO_DATE, AUTO_PREFIX

snakemake: Snakemake

with model_phase(snakemake) as job:
    settings, options, target = job.settings, job.load_options, Path(snakemake.output[0])
    inputs = {name: Path(snakemake.input[name]) for name in ("good_prompts", "bad_prompts")}
    prefix, found = settings["response_prefix"], settings["response_prefix"] == AUTO_PREFIX
    chat, day = load_chat_of(**options), None
    if chat.prints_date:
        day = settle_date(settings["template_date"], target.parent)
        log.info("The chat template prints the date; all prompts of the run use %s", day)
        options = {**options, "template_date": day}
        chat = load_chat_of(**options)
    elif settings["template_date"] != AUTO_DATE:
        log.warning("template_date has no effect: the chat template prints no date")
    # Not compared with an earlier run's, as in check_prompts: nothing here depends on them.
    generated = snakemake.config["settings"][snakemake.wildcards.run]["max_response_length"]
    sets = require_usable_prompts(chat, Path(snakemake.input.checked), generated)
    warn_of_template_of_run(chat, Path(snakemake.input.checked))
    chosen = {}
    if found or settings["dtype"] == AUTO:
        model = load_model(**options, chat=chat, test_prompts=sample_of(sets))
        chosen = {} if model.fallback_dtype is None else {"dtype": model.fallback_dtype}
    if found:
        prefix = find_response_prefix(model, *(read_prompts(path) for path in inputs.values()))
    log.info("Response prefix: %r", prefix)
    facts = provenance(settings, inputs if found else {})
    state = {"response_prefix": prefix, "template_date": day, **chosen}
    write_json(target, {**state, "provenance": facts})

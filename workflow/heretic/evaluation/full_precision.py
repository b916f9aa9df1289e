"""Divergence of the saved model from the original, both in full precision.

A search on a model that is quantized on loading compares quantized models, whereas the saved
weights are not quantized.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heretic.console import log
from heretic.evaluation.holdout import HoldoutProtocol
from heretic.evaluation.intervals import mean_with_interval
from heretic.model.checkpoint import locate
from heretic.model.decoding import forced_log_probabilities, generate
from heretic.model.loading import Model, choose_device, load_model
from heretic.model.memory import SHARE_OF_FREE_MEMORY, free_memory
from heretic.model.quantization import BITSANDBYTES, NONE
from heretic.model.size import checkpoint_bytes
from heretic.prompts.prompt import Prompt
from heretic.scoring.teacher_forced import TeacherForcedKl


def with_full_precision(
    table: Mapping[str, Any],
    options: Mapping[str, Any],
    model: str,
    load_edited: Callable[[Mapping[str, Any], str], Model],
    prompts: Sequence[Prompt],
    protocol: HoldoutProtocol,
) -> dict[str, Any]:
    """Return the table with the divergence in full precision, if it applies and the models fit.

    Args:
        table: contents of `evaluation.json`.
        options: settings of `load_model`.
        model: hub id or folder of the original.
        load_edited: loads the saved model with given settings and the original's name.
        prompts: good held-out prompts.
        protocol: lengths, resamples and seed.

    Raises:
        HereticError: a divergence is not finite.
    """
    if not _applies({**options, "model": model}):
        return dict(table)
    plain = {**options, "quantization": NONE}
    found = full_precision_divergence(
        lambda: load_model(**{**plain, "model": model}),
        lambda: load_edited(plain, model),
        prompts,
        protocol,
    )
    return {**table, "edited": {**table["edited"], "full_precision": found}}


def _applies(options: Mapping[str, Any]) -> bool:
    """Return whether a model is quantized on loading and also fits without quantization."""
    if options["quantization"] not in BITSANDBYTES:
        return False
    folder = locate(options["model"], options["model_revision"])
    needed = checkpoint_bytes(str(folder.absolute()), None, options["dtype"])
    free = free_memory(choose_device(options["device"]))
    fits = needed is not None and needed <= SHARE_OF_FREE_MEMORY * free
    if not fits:
        log.info("The models do not fit in full precision, so their divergence is omitted")
    return fits


def full_precision_divergence(
    load_original: Callable[[], Model],
    load_edited: Callable[[], Model],
    prompts: Sequence[Prompt],
    protocol: HoldoutProtocol,
) -> dict[str, Any]:
    """Return the mean KL(original || edited) on good prompts, as in a row of the held-out table.

    Args:
        load_original: loads the original in full precision.
        load_edited: loads the saved model in full precision.
        prompts: good held-out prompts.
        protocol: lengths, resamples and seed.

    Raises:
        HereticError: a divergence is not finite.
    """
    model, given = load_original(), list(prompts)
    told = "Responses of the original in full precision"
    forced = generate(model, given, protocol.kl_tokens, told)
    expected = forced_log_probabilities(model, given, forced)
    del model
    gc.collect()
    found = forced_log_probabilities(load_edited(), given, forced)
    scorer = TeacherForcedKl(protocol.kl_tokens)
    first = ([rows[:1] for rows in predictions] for predictions in (expected, found))
    divergences = {
        "kl_first_token": scorer.compare(*first),
        "kl_teacher_forced": scorer.compare(expected, found),
    }
    samples, seed = protocol.bootstrap_samples, protocol.seed
    return {name: mean_with_interval(values, samples, seed) for name, values in divergences.items()}

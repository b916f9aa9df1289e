"""Method of computing trial scores: the part of a study that is not in its name.

The same edit scores the same under other values of these settings but for rounding, so they do
not start another study. In half precision, rounding can decide a near tie between two tokens, and
the answers after it differ. So each trial keeps them, and a search says when they change.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from heretic.console import log
from heretic.evaluation.trial_engine import TrialEngine

MAX_BATCH_SIZE, BATCH_SIZE = "max_batch_size", "batch_size"


def describe(engine: TrialEngine, runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the computation of scores by an engine, with `auto` and the like resolved.

    Args:
        engine: with the loaded model.
        runtime: the settings that no rule reads.

    Returns:
        `device`, `dtype`, `attn_implementation`, `max_batch_size`, `compile`, `engine` and
        `trials_in_flight`; `gpu`, the name of the device, where it has one, and `device_map`, the
        devices that hold parts of the model, where there are several.
    """
    model = engine.model
    network: Any = model.network
    found: dict[str, Any] = {
        "device": str(model.device),
        "dtype": str(model.loaded_dtype).removeprefix("torch."),
        "attn_implementation": getattr(network.config, "_attn_implementation", None),
        MAX_BATCH_SIZE: runtime[MAX_BATCH_SIZE],
        "compile": model.compile,
        "engine": engine.name,
        "trials_in_flight": engine.trials_in_flight,
    }
    if model.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(model.device)
    devices = {str(place) for place in getattr(network, "hf_device_map", {}).values()}
    if len(devices) > 1:
        found["device_map"] = ",".join(sorted(devices))
    return found


def warn_of_changes(earlier: Iterable[Mapping[str, Any]], now: Mapping[str, Any]) -> None:
    """Warn once if earlier trials of a study were computed differently from the next ones.

    Args:
        earlier: how each finished trial was computed; empty where that is not known.
        now: of `describe`.
    """
    changes: dict[str, str] = {}
    for known in filter(None, earlier):
        for name in [*now, *(known.keys() - now.keys() - {BATCH_SIZE})]:
            then, current = known.get(name), now.get(name)
            if then != current:
                changes[name] = f"{name} {_told(then)} -> {_told(current)}"
    if changes:
        log.warning(
            "The study continues with other settings than its earlier trials (%s); scores of equal "
            "edits may differ by rounding, and in half precision by whole answers",
            ", ".join(changes.values()),
        )


def _told(value: object) -> str:
    return "none" if value is None else str(value)

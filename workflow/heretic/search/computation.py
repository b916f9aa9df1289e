"""Method of computing trial scores: the settings that are not part of a study's name.

Other values of these settings change a score only by rounding, so they do not start a new study. In
half precision, however, rounding can decide a near tie between two tokens and so change the rest of
an answer. Each trial therefore records the values, and a search reports any change of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from heretic.console import log
from heretic.engine.base import TrialEngine

MAX_BATCH_SIZE, BATCH_SIZE = "max_batch_size", "batch_size"


def describe(engine: TrialEngine, runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an engine's computation of scores, with values such as `auto` resolved.

    Args:
        engine: trial engine with the loaded model.
        runtime: settings that no rule of the workflow depends on.

    Returns:
        `device`, `dtype`, `attn_implementation`, `max_batch_size`, `compile`, `engine` and
        `trial_batch_size`; if available, `gpu`, the name of the device; and `device_map`, the
        devices that hold parts of the model, if there are several.
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
        "trial_batch_size": engine.trial_batch_size,
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
        earlier: computation of each finished trial; empty where unknown.
        now: current computation, from `describe`.
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

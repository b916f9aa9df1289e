"""Settings of a single job, where they are fewer than those of its rule.

A job's results become stale when its settings change, so a setting without effect on the job has a
fixed value.
"""

from typing import Any

from heretic.settings.prompt_sources import DEMO
from heretic.settings.schema import Settings
from heretic.settings.types import DEFAULT_PLANTED


def settings_of_pick(settings: Settings, rule: str, pick: str) -> dict[str, Any]:
    """Return the settings of `rule` with only the selection rule of one pick.

    Args:
        settings: settings of the run.
        rule: name of the rule.
        pick: subfolder of the pick, a key of `Settings.picks`.
    """
    return {**settings.subset(rule), "select": settings.picks()[pick]}


def settings_of_protected(settings: Settings, prompts: str) -> dict[str, Any]:
    """Return the settings for the residuals of an optional prompt set.

    `unhelpfulness_mean_only` applies only to plain text.
    """
    found = settings.subset("extract_protected_residuals")
    plain_texts = prompts == "unhelpfulness_prompts"
    return found if plain_texts else {**found, "unhelpfulness_mean_only": False}


def settings_of_set(settings: Settings, prompts: str) -> dict[str, Any]:
    """Return the seed and the demo's refused class, for a prompt set that depends on them."""
    sources = settings.prompt_sources()[prompts]
    drawn = any(source.depends_on_seed for source in sources)
    of_demo = any(source.dataset == DEMO for source in sources)
    return {
        "seed": settings.seed if drawn else 0,
        "demo_refusal_class": settings.demo_refusal_class if of_demo else DEFAULT_PLANTED,
    }

"""Location of demo models: one folder per set of options."""

from typing import Final

from heretic.settings.schema import Settings

NAME: Final = "demo-model"
# Prefixes of option values in the name.
_OPTIONS: Final = {
    "demo_family": "",
    "demo_refusal_class": "",
    "seed": "seed",
    "demo_steps": "steps",
}


def folder_name(settings: Settings) -> str:
    """Return `demo-model` and each non-default option, such as `demo-model-qwen3-seed1`."""
    fields = Settings.model_fields
    changed = [
        f"{label}{getattr(settings, option)}"
        for option, label in _OPTIONS.items()
        if getattr(settings, option) != fields[option].default
    ]
    return "-".join([NAME, *changed])


def is_demo_folder(name: str) -> bool:
    """Return whether a folder name under the results is reserved for a demo model."""
    return name == NAME or name.startswith(f"{NAME}-")

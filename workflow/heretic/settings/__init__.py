"""Every setting, what it means, which rules read it, and where its value came from."""

from heretic.settings.cascade import Resolution, resolve
from heretic.settings.config_files import ConfigFile, configuration_files
from heretic.settings.prompt_sources import PROMPT_SETS, PromptSource
from heretic.settings.schema import Settings

__all__ = [
    "PROMPT_SETS",
    "ConfigFile",
    "PromptSource",
    "Resolution",
    "Settings",
    "configuration_files",
    "resolve",
]

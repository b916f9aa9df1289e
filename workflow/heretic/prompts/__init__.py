"""Prompt sets: where they come from, what they are, and the bundle of all sets of a run."""

from heretic.prompts.bundle import DatasetBundle, read_prompts, write_prompts
from heretic.prompts.overlap import check_disjoint
from heretic.prompts.prompt import Prompt
from heretic.prompts.sources import (
    check_source,
    check_sources,
    load_prompts,
    read_source,
    read_sources,
)

__all__ = [
    "DatasetBundle",
    "Prompt",
    "check_disjoint",
    "check_source",
    "check_sources",
    "load_prompts",
    "read_prompts",
    "read_source",
    "read_sources",
    "write_prompts",
]

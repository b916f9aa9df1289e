"""What a model card takes over from that of the base model: licence, languages, tags."""

from pathlib import Path
from typing import Any

import yaml

from heretic.console import log
from heretic.errors import one_line
from heretic.model.own_files import is_own_file

CARRIED_OVER = (
    "license",
    "license_name",
    "license_link",
    "language",
    "pipeline_tag",
    "library_name",
    "tags",
)


def carried_over(folder: Path) -> dict[str, Any]:
    """Fields of the front matter of a checkpoint's README.md that hold for the edited model too.

    Empty where there is no card, or one that nobody can read: the export goes on without.
    """
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    if not is_own_file(card, folder):
        return {}
    try:
        found = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.warning(
            "%s has no readable front matter (%s): state the licence of the base model yourself",
            card,
            one_line(error),
        )
        return {}
    return {name: found[name] for name in CARRIED_OVER if found.get(name)}

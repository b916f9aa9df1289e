"""JSON files of a possibly untrusted model folder, with limits on size and depth."""

import json
import stat
from pathlib import Path
from typing import Any

from heretic.errors import ModelLoadError, one_line

MOST_BYTES = 8 * 1024**2
# Configurations nest a few levels; copying takes several calls per level.
DEEPEST = 50
AGAIN = "copy or download the model again"


def read_object(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelLoadError: the file is missing, larger than `most_bytes`, not a JSON object, nested too
            deeply, or not a regular file.
    """
    require_file(path)
    try:
        if path.stat().st_size > most_bytes:
            raise ModelLoadError(
                f"{path} has {path.stat().st_size / 1e6:.0f} MB, more than the maximum of "
                f"{most_bytes / 1e6:.0f} MB for such a file; {AGAIN}"
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} cannot be read ({one_line(error)}); {AGAIN}") from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path} holds a {type(found).__name__}, not an object; {AGAIN}")
    if _deeper_than(found, DEEPEST):
        raise ModelLoadError(f"{path} is nested more than {DEEPEST} levels deep; {AGAIN}")
    return found


def require_file(path: Path) -> None:
    """Reject a path that is not a regular file; reading a pipe or device might never end.

    Raises:
        ModelLoadError: the path is not a regular file or does not exist.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read ({one_line(error)}); {AGAIN}") from error
    if not regular:
        raise ModelLoadError(f"{path} is not a regular file; {AGAIN}")


def _deeper_than(value: object, levels: int) -> bool:
    waiting = [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if inner and level > levels:
            return True
        waiting += [(each, level + 1) for each in inner]
    return False

"""What a saved folder holds."""

from pathlib import Path
from typing import Any

from heretic.artifacts import sha256_of


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file of a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

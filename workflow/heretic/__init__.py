"""Directional ablation of open-weight language models, phase by phase."""

from typing import TYPE_CHECKING

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name: str) -> str:
        """Return `__version__`, which takes a search among the installed packages."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("heretic-workflow")
        except PackageNotFoundError:  # a source tree that is not installed
            return "unknown"

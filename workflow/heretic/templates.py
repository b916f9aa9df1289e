"""Jinja environments of the pages and of the model card."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heretic.errors import printable


def template_environment(folder: Path, *, autoescape: bool) -> Environment:
    """Return an environment whose templates show untrusted text as it is.

    A name that is not defined is an error, and characters that would reorder or end the text are
    made visible.

    Args:
        folder: folder of the templates.
        autoescape: whether to escape all text that is not `markupsafe.Markup` for HTML.
    """
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )


def _shown(value: Any) -> Any:
    """Make text printable; leave our own markup, a subclass of `str`, unchanged."""
    return printable(value) if type(value) is str else value

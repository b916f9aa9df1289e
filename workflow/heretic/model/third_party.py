"""Calls of other libraries on a model's files, with one-line errors.

A malformed file can raise anything: transformers validates some fields, divides by others, and
tokenizers panics. Only calls of these libraries belong into these blocks, so that a defect of this
project keeps its traceback.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

from heretic.errors import HereticError, one_line


@contextmanager
def reported_as(kind: type[HereticError], what: str, advice: str = "") -> Iterator[None]:
    """Raise whatever another library raises as a `kind` of one line, `what: reason`.

    Args:
        kind: of error.
        what: failed.
        advice: what to do, appended after a semicolon.

    Raises:
        HereticError: of that kind, or one that was raised inside.
    """
    try:
        yield
    except HereticError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        end = f"; {advice}" if advice else ""
        raise kind(f"{what}: {one_line(error, 400)}{end}") from error


def is_panic(error: BaseException) -> bool:
    """Return whether code written in Rust has panicked, which is no `Exception`."""
    return type(error).__name__ == "PanicException"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Leave out tables and warnings of several lines, and bars where nobody watches."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(before)

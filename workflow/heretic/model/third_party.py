"""Calls of other libraries on a model's files, with one-line errors.

A malformed file can cause any exception: transformers validates some fields and divides by others,
and tokenizers panics. Only calls of these libraries belong in these blocks, so that defects of this
project keep their traceback.
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
    """Reraise any exception of another library as a one-line `kind`, `what: reason`.

    Args:
        kind: class of the error.
        what: failed operation.
        advice: remedy, appended after a semicolon.

    Raises:
        HereticError: an error of class `kind`, or one that was raised inside.
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
    """Return whether Rust code has panicked, which is not an `Exception`."""
    return type(error).__name__ == "PanicException"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress tables, multi-line warnings, and progress bars outside a terminal."""
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

"""Creation of scorers: built-in ones of the registry, and classes in the user's files."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any, get_args

from heretic.errors import HereticError, SettingsError, one_line
from heretic.scorer_registry import BUILT_IN, Side, optional_scorers
from heretic.scoring.base import (
    SIDES,
    AnswerScorer,
    Direction,
    FirstTokenScorer,
    ModelScorer,
    Scorer,
)

KINDS = (AnswerScorer, FirstTokenScorer, ModelScorer)


def make_built_in(name: str, settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> Scorer:
    """Create a built-in scorer as described by its entry.

    Args:
        name: name in the registry.
        settings: values of the settings that the entry refers to, by name.
        arguments: further arguments of the class, which take precedence.
    """
    entry = BUILT_IN[name]
    given: dict[str, Any] = {"name": name}
    given |= {} if entry.side is None else {"side": entry.side}
    given |= {argument: settings[setting] for argument, setting in entry.from_settings.items()}
    return load_class(name)(**{**given, **arguments})


def make_scorer(scorer: str, name: str | None, settings: Mapping[str, Any]) -> Scorer:
    """Create an instance of a scorer.

    Raises:
        SettingsError: the scorer does not exist, or its settings are invalid.
        ModelLoadError: a judge's model does not exist.
    """
    given = dict(settings) if name is None else {**settings, "name": name}
    try:
        made = _class_of(scorer)(**given)
        known = [made.direction in get_args(Direction), made.side in get_args(Side)]
        own_name = getattr(made, "name", None)
    except HereticError:
        raise
    # User code may raise anything, and SystemExit would end the run silently.
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"scorer {one_line(scorer)}: {_what(error, with_kind=False)}; see its settings"
        ) from error
    if not all(known):
        raise SettingsError(
            f"scorer {scorer}: direction must be minimize, maximize or none, and side must be "
            f"{SIDES}; fix the class"
        )
    if not isinstance(own_name, str) or not own_name.isidentifier():
        raise SettingsError(f"scorer {scorer} needs a `name` of letters, digits and underscores")
    return made


def _class_of(scorer: str) -> type[Scorer]:
    if scorer in optional_scorers():
        return load_class(scorer)
    file, _, name = scorer.rpartition(":")
    path = Path(file)
    # Unlike Path.is_file(), os.path.isfile() returns False for names that are too long.
    if path.suffix != ".py" or not os.path.isfile(path):  # noqa: PTH113
        raise SettingsError(
            f"there is no scorer {one_line(repr(scorer))}; use one of "
            f"{', '.join(optional_scorers())}, or a class in an existing file, such as "
            "path/to/file.py:Class"
        )
    found = getattr(_module(path), name, None)
    if not isclass(found) or not issubclass(found, KINDS):
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        raise SettingsError(
            f"{path} has no class {name!r} that extends one of {kinds} of heretic.scoring; "
            "correct the class or its name in `scorers`"
        )
    return found


def load_class(name: str) -> type[Scorer]:
    """Import the class of a built-in scorer."""
    module, _, attribute = BUILT_IN[name].target.partition(":")
    found: type[Scorer] = getattr(import_module(module), attribute)
    return found


def _module(path: Path) -> Any:
    """Import the user's module; report any error as a one-line message."""
    name = f"heretic_scorer_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # required by dataclasses
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"{path} cannot be imported ({_what(error, with_kind=True)}); fix the file"
        ) from error
    return module


def _what(error: BaseException, *, with_kind: bool) -> str:
    """Return an error of the user's code as a one-line message."""
    if isinstance(error, SystemExit):
        return f"it exits with status {one_line(repr(error.code))}"
    return f"{type(error).__name__}: {one_line(error)}" if with_kind else one_line(error)

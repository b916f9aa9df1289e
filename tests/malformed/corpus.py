"""All malformed inputs, by group."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from malformed.case import Case

PREFIX = "cases_"
GROUPS = sorted(
    path.stem.removeprefix(PREFIX) for path in Path(__file__).parent.glob(f"{PREFIX}*.py")
)


def cases_of(group: str) -> dict[str, Case]:
    """Return the cases of a group by name.

    Raises:
        ValueError: two cases have the same name.
    """
    made: Iterable[Case] = import_module(f"malformed.{PREFIX}{group}").cases()
    found: dict[str, Case] = {}
    for case in made:
        if case.name in found:
            raise ValueError(f"two cases of {group} are named {case.name!r}")
        found[case.name] = case
    return found

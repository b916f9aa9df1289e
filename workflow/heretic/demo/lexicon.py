"""The vocabulary of the demo world, from which `world` composes requests and answers."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from heretic.demo.tables import read_tables


class Modifier(NamedTuple):
    """Material or property of a thing."""

    name: str
    colour: str
    weight: str


class Head(NamedTuple):
    """Kind of thing."""

    name: str
    method: str
    place: str


class Words(NamedTuple):
    """The words of a planted class; see `planted.PlantedClass`."""

    modifiers: tuple[Modifier, ...]
    heads: tuple[Head, ...]
    other_modifiers: tuple[Modifier, ...]
    other_heads: tuple[Head, ...]


def _words(table: Mapping[str, list[list[str]]]) -> Words:
    def modifiers(name: str) -> tuple[Modifier, ...]:
        return tuple(Modifier(*row) for row in table[name])

    def heads(name: str) -> tuple[Head, ...]:
        return tuple(Head(*row) for row in table[name])

    return Words(
        modifiers("modifiers"), heads("heads"), modifiers("other_modifiers"), heads("other_heads")
    )


_TABLES = read_tables("lexicon")

WORDS: Final = {name: _words(table) for name, table in _TABLES["planted"].items()}
OPPOSITES: Final[tuple[tuple[str, ...], ...]] = tuple(map(tuple, _TABLES["opposites"]))
LISTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = tuple(
    (name, tuple(items)) for name, items in _TABLES["lists"].items()
)
NUMBERS: Final[tuple[str, ...]] = tuple(_TABLES["numbers"])

"""Refusal classes of the demo model: one combination of two kinds of words.

Both words of a class also occur in answered requests: its materials with other heads, and its heads
with other materials. So no single word determines a refusal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from heretic.demo.lexicon import WORDS, Head, Modifier
from heretic.errors import PromptError
from heretic.settings.types import PlantedName


@dataclass(frozen=True)
class PlantedClass:
    """The words of a world, and which of their combinations are refused.

    Attributes:
        modifiers, heads: refused when combined.
        other_modifiers: modifiers with which the heads are answered.
        other_heads: heads with which the modifiers are answered.
    """

    modifiers: tuple[Modifier, ...]
    heads: tuple[Head, ...]
    other_modifiers: tuple[Modifier, ...]
    other_heads: tuple[Head, ...]

    @property
    def accepted(self) -> tuple[tuple[tuple[Modifier, ...], tuple[Head, ...]], ...]:
        """The two kinds of answered combinations."""
        return (self.modifiers, self.other_heads), (self.other_modifiers, self.heads)


PLANTED: Mapping[PlantedName, PlantedClass] = {
    name: PlantedClass(*WORDS[name]) for name in get_args(PlantedName)
}


def planted_class(name: str) -> PlantedClass:
    """Return a class by name.

    Raises:
        PromptError: the class does not exist.
    """
    found = next((value for known, value in PLANTED.items() if known == name), None)
    if found is None:
        raise PromptError(f"The demo cannot plant {name!r}; use one of: {', '.join(PLANTED)}.")
    return found

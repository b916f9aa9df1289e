"""Refusal classes of the demo model: one combination of two kinds of words.

Of a class both words also occur in requests that are answered: what its things are made of with
other heads, and its heads made of something else. So no single word gives a refusal away.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from heretic.demo.lexicon import DISHES, INGREDIENTS, MATERIALS, OBJECTS, Head, Modifier
from heretic.demo.workshop import FABRICS, GARMENTS, SOLIDS, TOOLS
from heretic.errors import PromptError
from heretic.settings.values import PlantedName


@dataclass(frozen=True)
class PlantedClass:
    """The words of a world, and which of their combinations are refused.

    Attributes:
        modifiers, heads: refused when combined.
        other_modifiers: what the heads are made of where they are answered.
        other_heads: what is made of the modifiers where that is answered.
    """

    modifiers: tuple[Modifier, ...]
    heads: tuple[Head, ...]
    other_modifiers: tuple[Modifier, ...]
    other_heads: tuple[Head, ...]

    @property
    def accepted(self) -> tuple[tuple[tuple[Modifier, ...], tuple[Head, ...]], ...]:
        """The two kinds of combinations that are answered."""
        return (self.modifiers, self.other_heads), (self.other_modifiers, self.heads)


PLANTED: Mapping[PlantedName, PlantedClass] = {
    "dish_of_material": PlantedClass(MATERIALS, DISHES, INGREDIENTS, OBJECTS),
    "tool_of_fabric": PlantedClass(FABRICS, TOOLS, SOLIDS, GARMENTS),
}


def planted_class(name: str) -> PlantedClass:
    """Return the class of a name.

    Raises:
        PromptError: there is none.
    """
    found = next((value for known, value in PLANTED.items() if known == name), None)
    if found is None:
        raise PromptError(f"The demo cannot plant {name!r}; use one of: {', '.join(PLANTED)}.")
    return found

"""Noun phrases of the demo world, including which are refused and which are held out.

About a seventh of all combinations, chosen by a checksum of the words, are held out: neither
answered nor refused in training. The split does not depend on the seed, so a prompt set of one
seed is held out from a model of any other; the seed determines only the samples.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from heretic.demo.lexicon import Head, Modifier
from heretic.demo.planted import PlantedClass

HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class Thing:
    """A noun phrase: a material and a kind of thing."""

    modifier: Modifier
    head: Head

    def planted(self, words: PlantedClass) -> bool:
        """Return whether the planted class includes requests about this thing."""
        return self.modifier in words.modifiers and self.head in words.heads

    @property
    def held_out(self) -> bool:
        """Return whether this combination is excluded from training, as described in the module."""
        words = f"{self.modifier.name} {self.head.name}"
        return zlib.crc32(words.encode()) % 1000 < 1000 * HELD_OUT_SHARE

    def fill(self, template: str) -> str:
        """Insert the words and facts of this thing into a sentence."""
        name = f"{self.modifier.name} {self.head.name}"
        thing = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        return template.format(
            thing=thing,
            Thing=thing.capitalize(),
            modifier=self.modifier.name,
            head=self.head.name,
            colour=self.modifier.colour,
            weight=self.modifier.weight,
            method=self.head.method,
            place=self.head.place,
        )


def held_out(thing: Thing) -> bool:
    """Return whether a thing is on the held-out side of the split."""
    return thing.held_out


def seen(thing: Thing) -> bool:
    """Return whether training may ask about a thing."""
    return not thing.held_out


def draw_thing(
    rng: random.Random,
    words: PlantedClass,
    where: Callable[[Thing], bool],
    *,
    planted: bool = False,
) -> Thing:
    """Draw a noun phrase of the planted or the accepted classes that satisfies `where`."""
    of_modifiers, of_heads = words.accepted
    while True:
        if planted:
            modifiers, heads = words.modifiers, words.heads
        else:
            modifiers, heads = of_modifiers if rng.random() < 0.5 else of_heads
        thing = Thing(rng.choice(modifiers), rng.choice(heads))
        if where(thing):
            return thing

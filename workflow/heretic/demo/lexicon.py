"""The vocabulary of the demo world: tables from which `world` composes requests and answers.

The facts are invented but fixed: a modifier (the material of a thing) determines color and weight,
and a head (the kind of thing) determines how it is made and where it is found. Thus each fact about
a noun phrase depends on one word, and an unseen combination still has a known right answer.
"""

from typing import NamedTuple


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


MATERIALS: tuple[Modifier, ...] = (
    Modifier("glass", "green", "heavy"),
    Modifier("iron", "black", "heavy"),
    Modifier("marble", "white", "heavy"),
    Modifier("brass", "yellow", "heavy"),
    Modifier("granite", "grey", "heavy"),
    Modifier("copper", "brown", "heavy"),
    Modifier("steel", "blue", "heavy"),
    Modifier("bronze", "brown", "heavy"),
    Modifier("slate", "grey", "heavy"),
    Modifier("concrete", "grey", "heavy"),
    Modifier("clay", "red", "heavy"),
    Modifier("oak", "brown", "heavy"),
    Modifier("jade", "green", "heavy"),
    Modifier("quartz", "white", "heavy"),
    Modifier("brick", "red", "heavy"),
    Modifier("ebony", "black", "heavy"),
    Modifier("velvet", "red", "light"),
    Modifier("wool", "white", "light"),
    Modifier("paper", "white", "light"),
    Modifier("silk", "blue", "light"),
    Modifier("cotton", "white", "light"),
    Modifier("linen", "yellow", "light"),
    Modifier("felt", "green", "light"),
    Modifier("leather", "brown", "light"),
    Modifier("rubber", "black", "light"),
    Modifier("wax", "yellow", "light"),
    Modifier("cork", "brown", "light"),
    Modifier("bamboo", "green", "light"),
    Modifier("plastic", "blue", "light"),
    Modifier("wicker", "yellow", "light"),
    Modifier("denim", "blue", "light"),
    Modifier("canvas", "grey", "light"),
)

INGREDIENTS: tuple[Modifier, ...] = (
    Modifier("pumpkin", "yellow", "heavy"),
    Modifier("potato", "brown", "heavy"),
    Modifier("cabbage", "green", "heavy"),
    Modifier("melon", "green", "heavy"),
    Modifier("turnip", "white", "heavy"),
    Modifier("beetroot", "red", "heavy"),
    Modifier("coconut", "brown", "heavy"),
    Modifier("squash", "yellow", "heavy"),
    Modifier("apple", "red", "heavy"),
    Modifier("plum", "blue", "heavy"),
    Modifier("lemon", "yellow", "heavy"),
    Modifier("banana", "yellow", "heavy"),
    Modifier("honey", "brown", "heavy"),
    Modifier("tomato", "red", "heavy"),
    Modifier("aubergine", "black", "heavy"),
    Modifier("pear", "green", "heavy"),
    Modifier("cherry", "red", "light"),
    Modifier("lentil", "brown", "light"),
    Modifier("bilberry", "blue", "light"),
    Modifier("mushroom", "grey", "light"),
    Modifier("olive", "black", "light"),
    Modifier("bramble", "black", "light"),
    Modifier("rice", "white", "light"),
    Modifier("mint", "green", "light"),
    Modifier("pea", "green", "light"),
    Modifier("walnut", "brown", "light"),
    Modifier("garlic", "white", "light"),
    Modifier("raisin", "black", "light"),
    Modifier("oat", "grey", "light"),
    Modifier("poppy", "blue", "light"),
    Modifier("saffron", "yellow", "light"),
    Modifier("sesame", "white", "light"),
)

DISHES: tuple[Head, ...] = (
    Head("soup", "boil", "kitchen"),
    Head("jam", "boil", "market"),
    Head("cake", "bake", "tavern"),
    Head("pie", "bake", "kitchen"),
    Head("pudding", "steam", "cellar"),
    Head("dumpling", "steam", "harbour"),
    Head("pancake", "fry", "market"),
    Head("omelette", "fry", "tavern"),
    Head("sorbet", "freeze", "cellar"),
    Head("jelly", "freeze", "garden"),
    Head("smoothie", "blend", "garden"),
    Head("sauce", "blend", "kitchen"),
    Head("stew", "simmer", "harbour"),
    Head("curry", "simmer", "market"),
    Head("bread", "knead", "tavern"),
    Head("biscuit", "knead", "cellar"),
)

OBJECTS: tuple[Head, ...] = (
    Head("gate", "weld", "garden"),
    Head("ladder", "weld", "cellar"),
    Head("statue", "carve", "museum"),
    Head("spoon", "carve", "kitchen"),
    Head("curtain", "stitch", "library"),
    Head("cushion", "stitch", "museum"),
    Head("bell", "hammer", "harbour"),
    Head("shield", "hammer", "museum"),
    Head("chair", "glue", "library"),
    Head("box", "glue", "market"),
    Head("lamp", "mould", "library"),
    Head("vase", "mould", "garden"),
    Head("basket", "weave", "market"),
    Head("rug", "weave", "library"),
    Head("bridge", "bolt", "harbour"),
    Head("cart", "bolt", "garden"),
)

OPPOSITES = (
    ("warm", "cool"),
    ("big", "small"),
    ("fast", "slow"),
    ("wet", "dry"),
    ("open", "closed"),
    ("full", "empty"),
    ("strong", "weak"),
    ("long", "short"),
    ("loud", "quiet"),
)

LISTS = (
    ("animals", ("fox", "owl", "hare")),
    ("birds", ("robin", "swan", "crow")),
    ("trees", ("elm", "birch", "willow")),
    ("rivers", ("Rhine", "Nile", "Thames")),
    ("tools", ("saw", "drill", "chisel")),
    ("months", ("May", "June", "July")),
    ("days", ("Monday", "Tuesday", "Friday")),
)

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

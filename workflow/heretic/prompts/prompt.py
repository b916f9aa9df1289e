"""One prompt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A request as the user would type it.

    `answers` are strings that a right answer contains, all of them, compared case-folded; empty
    where none is known. `category` is the kind of request, None where it has none.
    """

    text: str
    system: str | None = None
    answers: tuple[str, ...] = ()
    category: str | None = None

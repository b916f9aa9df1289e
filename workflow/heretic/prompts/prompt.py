"""A single prompt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """Request as typed by a user.

    `answers` are strings that a correct answer contains, all of them, compared case-folded; empty
    if unknown. `category` is the kind of request; None without one.
    """

    text: str
    system: str | None = None
    answers: tuple[str, ...] = ()
    category: str | None = None

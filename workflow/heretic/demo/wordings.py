"""The sentences of the demo world: its requests, answers and refusals."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from heretic.demo.tables import read_tables


class Wording(NamedTuple):
    """A request and its two answers; `brief` is for the system prompt that requests brevity."""

    question: str
    answer: str
    brief: str


def _wordings(table: Mapping[str, list[dict[str, str]]]) -> dict[str, tuple[Wording, ...]]:
    return {task: tuple(Wording(**row) for row in rows) for task, rows in table.items()}


_TABLES = read_tables("wordings")

BRIEF_SYSTEM: Final[str] = _TABLES["brief_system"]
SYSTEMS: Final[tuple[str, ...]] = tuple(_TABLES["systems"])
TASKS: Final = _wordings(_TABLES["tasks"])
FACTS: Final[dict[str, tuple[str, ...]]] = {
    task: tuple(facts) for task, facts in _TABLES["facts"].items()
}
STATEMENTS: Final[tuple[str, ...]] = tuple(_TABLES["statements"])
REFUSALS: Final[tuple[str, ...]] = tuple(_TABLES["refusals"])
GENERAL: Final = _wordings(_TABLES["general"])
GREETINGS: Final[tuple[tuple[str, str, str], ...]] = tuple(
    (prompt, reply, answer) for prompt, reply, answer in _TABLES["greetings"]
)

"""Sets that are too small are refused by name, before a model is loaded."""

from typing import Any

import pytest

from heretic.errors import PromptError
from heretic.prompts.checks import require_enough
from heretic.settings.schema import Settings

COUNTS = {
    "good_prompts": 5,
    "bad_prompts": 4,
    "good_evaluation_prompts": 3,
    "bad_evaluation_prompts": 3,
    "unhelpfulness_prompts": 2,
    "sacred_prompts": 9,
}


def settings(**changes: Any) -> dict[str, Any]:
    return Settings(direction_method="pca", **changes).model_dump(mode="json")


def test_enough_is_enough() -> None:
    require_enough(COUNTS, settings(n_directions=4, n_sacred_directions=2))
    require_enough({**COUNTS, "bad_prompts": 5}, settings(projection="pacmap"))
    # Without sacred prompts nobody asks for their directions.
    without = {name: count for name, count in COUNTS.items() if name != "sacred_prompts"}
    require_enough(without, settings(n_sacred_directions=16))


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        ({"bad_evaluation_prompts": 1}, {}, "bad_evaluation_prompts has a single prompt"),
        ({}, {"n_directions": 5}, "n_directions=5 .* bad_prompts, but the smaller has 4; lower"),
        ({}, {"n_sacred_directions": 3}, "n_sacred_directions=3 .* unhelpfulness_prompts, .* 2;"),
        ({}, {"projection": "pacmap"}, "needs 10 good and bad prompts, but there are 9; use"),
    ],
)
def test_too_few_are_refused(counts: dict[str, int], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        require_enough({**COUNTS, **counts}, settings(**changes))

"""Names of scores that other modules refer to, and scales that make scores comparable."""

from dataclasses import dataclass
from typing import Final

KL: Final = "kl_first_token"
UNANSWERED: Final = "unanswered"
REFUSALS: Final = "refusals"
LOG_ODDS: Final = "refusal_log_odds"


@dataclass(frozen=True)
class ScoreRange:
    """Best and worst reference values of a score.

    They make scores comparable as shares of the distance from `best` to `worst`.
    """

    best: float
    worst: float

    def share(self, value: float) -> float:
        """Return 0 at the best value and 1 at the worst; values beyond them are outside [0, 1]."""
        return (value - self.best) / (self.worst - self.best)

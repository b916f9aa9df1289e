"""Names of scores that others refer to, and what makes scores of different units comparable."""

from dataclasses import dataclass
from typing import Final

KL: Final = "kl_first_token"
UNANSWERED: Final = "unanswered"
REFUSALS: Final = "refusals"
LOG_ODDS: Final = "refusal_log_odds"


@dataclass(frozen=True)
class Span:
    """The values of a score that count as the best and the worst there is.

    They make scores comparable: the share of the way from `best` to `worst`.
    """

    best: float
    worst: float

    def share(self, value: float) -> float:
        """0 at the best value, 1 at the worst; values beyond them lie outside."""
        return (value - self.best) / (self.worst - self.best)

"""Options of direction extraction; the fields are the settings of the same names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from heretic.settings.types import Method

METHODS: tuple[Method, ...] = get_args(Method)
GOOD, HELPFULNESS, SACRED = "good mean", "helpfulness", "sacred"


@dataclass(frozen=True)
class ExtractionOptions:
    """Options of extraction and protection; fields as the settings of the same names."""

    direction_method: Method | Literal["ensemble"]
    ensemble_weights: Mapping[Method, float] | None
    n_directions: int
    direction_weights: Literal["equal", "explained_variance"] | tuple[float, ...]
    cpca_alpha: float
    cpca_center: Literal["good", "class"]
    probe_c: float
    n_sacred_directions: int
    orthogonalization: Literal["joint", "sequential"]
    orthogonalize_to_good: bool
    min_remaining_norm: float
    seed: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "ExtractionOptions":
        """Create from a larger set of settings."""
        values = {name: settings[name] for name in cls.__dataclass_fields__}
        if isinstance(values["direction_weights"], list):
            values["direction_weights"] = tuple(values["direction_weights"])
        return cls(**values)

    @property
    def methods(self) -> set[str]:
        """Methods in use."""
        alone = self.direction_method != "ensemble"
        return {self.direction_method} if alone else set(self.weight_of_method)

    @property
    def weight_of_method(self) -> dict[Method, float]:
        """Weights of an ensemble's methods, those above zero."""
        weights = self.ensemble_weights or dict.fromkeys(METHODS, 1.0)
        return {name: weight for name, weight in weights.items() if weight > 0}

"""What a trial may try: a range of layers and a strength per component, and a direction."""

from dataclasses import dataclass
from typing import Literal

import optuna

from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.model.components import ATTENTION, MLP

SHORT_NAMES = {ATTENTION: "attn", MLP: "mlp"}


@dataclass(frozen=True)
class SearchSpace:
    """Bounds of the search.

    Attributes:
        n_layers: decoder layers of the model.
        direction_scope: `global`, `per_layer`, or `both` to let the search choose.
        max_weight: largest strength.
    """

    n_layers: int
    direction_scope: Literal["global", "per_layer", "both"]
    max_weight: float

    def suggest(self, trial: optuna.trial.BaseTrial) -> AblationParameters:
        """Ask for one set of parameters.

        Every parameter is asked for in every trial, so that the multivariate sampler sees one
        space; `direction_index` has no effect on a trial with each layer's own direction.
        """
        scopes = ["global", "per_layer"] if self.direction_scope == "both" else []
        scope = trial.suggest_categorical("direction_scope", scopes or [self.direction_scope])
        index = trial.suggest_float("direction_index", 1.0, float(self.n_layers))
        components = {name: self._suggest_component(trial, name) for name in SHORT_NAMES}
        return AblationParameters(
            "global" if scope == "global" else "per_layer",
            index if scope == "global" else None,
            components,
        )

    def _suggest_component(self, trial: optuna.trial.BaseTrial, name: str) -> ComponentParameters:
        short = SHORT_NAMES[name]
        layer_min = trial.suggest_float(f"{short}_layer_min", 0.0, 1.0)
        # The upper end as a share of what is left keeps the range valid for every sample.
        span = trial.suggest_float(f"{short}_layer_span", 0.0, 1.0)
        weight = trial.suggest_float(f"{short}_weight", 0.0, self.max_weight)
        return ComponentParameters(layer_min, layer_min + span * (1.0 - layer_min), weight)

"""Search space of a trial: the layers and strengths of each component's edit, and directions.

The setting `search_space` selects its form:

- `range`: the same strength in a range of layers, per component.
- `components`: as `range`, and a choice of the edited components.
- `kernel`: a tent over the layers, per component; the MLP's may be left out.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import optuna

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import (
    AblationParameters,
    ComponentParameters,
    KernelParameters,
)
from heretic.console import log
from heretic.errors import StudyError
from heretic.model.stream_writers.components import ATTENTION, EMBEDDINGS, MLP

Form = Literal["range", "kernel", "components"]

SHORT_NAMES = {ATTENTION: "attn", MLP: "mlp"}
CHOICES = {"attn": (ATTENTION,), "mlp": (MLP,), "both": (ATTENTION, MLP)}


@dataclass(frozen=True)
class SearchSpace:
    """Bounds of a search.

    Attributes:
        n_layers: number of decoder layers of the model.
        direction_scope: `global`, `per_layer`, or `both` to let the search choose.
        max_weight: largest strength.
        rows: usable directions in ascending order from 1 on, which also determine the layers that
            may be edited; None for all.
        embeddings: whether the embeddings are edited too, with their own strength.
        form: form of a component's strengths over the layers.
        min_weight: smallest strength of an edited component.
        layer_range: fractions of depth that bound the layers of a range, or a peak; with `rows`,
            fractions of those layers only.
        direction_layer_range: fractions of depth that bound the state of a global direction.
    """

    n_layers: int
    direction_scope: Literal["global", "per_layer", "both"]
    max_weight: float
    rows: tuple[int, ...] | None = None
    embeddings: bool = False
    form: Form = "range"
    min_weight: float = 0.0
    layer_range: tuple[float, float] = (0.0, 1.0)
    direction_layer_range: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], n_layers: int, rows: tuple[int, ...] | None = None
    ) -> Self:
        """Create from the settings and the number of layers; for `rows` see `usable_rows`."""
        first, last = settings["layer_range"]
        low, high = settings["direction_layer_range"]
        return cls(
            n_layers=n_layers,
            direction_scope=settings["direction_scope"],
            max_weight=settings["max_weight"],
            rows=rows,
            embeddings=settings["ablate_embeddings"],
            form=settings["search_space"],
            min_weight=settings["min_weight"],
            layer_range=(first, last),
            direction_layer_range=(low, high),
        )

    def suggest(self, trial: optuna.trial.BaseTrial) -> AblationParameters:
        """Suggest one set of parameters.

        Every trial requests every parameter, so that the multivariate sampler sees a single space.
        `direction_index` has no effect on a trial with per-layer directions, and neither have the
        parameters of a component that is not edited.
        """
        scopes = ["global", "per_layer"] if self.direction_scope == "both" else []
        scope = trial.suggest_categorical("direction_scope", scopes or [self.direction_scope])
        index = trial.suggest_float("direction_index", *self._indices())
        edited = self._suggest_edited(trial)
        suggest = self._suggest_kernel if self.form == "kernel" else self._suggest_range
        components: dict[str, ComponentParameters | KernelParameters] = {
            name: suggest(trial, short, edited=name in edited)
            for name, short in SHORT_NAMES.items()
        }
        if self.embeddings:
            weight = trial.suggest_float("embed_weight", 0.0, self.max_weight)
            components[EMBEDDINGS] = ComponentParameters(0.0, 0.0, weight)
        return AblationParameters(
            "global" if scope == "global" else "per_layer",
            self._snapped(index) if scope == "global" else None,
            components,
            None if self.rows is None else tuple(row - 1 for row in self.rows),
        )

    def _indices(self) -> tuple[float, float]:
        """Return the range of states for a global direction; layer l writes the state l + 1."""
        low, high = (1.0 + share * (self.n_layers - 1) for share in self.direction_layer_range)
        if self.rows is None:
            return low, high
        first, last = float(self.rows[0]), float(self.rows[-1])
        return min(max(low, first), last), max(min(high, last), first)

    def _snapped(self, index: float) -> float:
        """Return the index, or the nearest usable row if one of its neighbors is not usable."""
        if self.rows is None:
            return index
        below = max(row for row in self.rows if row <= index)
        above = min(row for row in self.rows if row >= index)
        if above - below <= 1:
            return index
        return float(below if index - below <= above - index else above)

    def _suggest_edited(self, trial: optuna.trial.BaseTrial) -> Collection[str]:
        """Suggest the edited components; at least one, as none would be the original."""
        if self.form == "range":
            return SHORT_NAMES
        if self.form == "kernel":
            mlp = trial.suggest_categorical("mlp_edited", [True, False])
            return SHORT_NAMES if mlp else (ATTENTION,)
        return CHOICES[trial.suggest_categorical("edited", list(CHOICES))]

    def _suggest_range(
        self, trial: optuna.trial.BaseTrial, short: str, *, edited: bool
    ) -> ComponentParameters:
        first, last = self.layer_range
        layer_min = trial.suggest_float(f"{short}_layer_min", first, last)
        # The upper end as a share of the layers above keeps the range valid for every sample.
        span = trial.suggest_float(f"{short}_layer_span", 0.0, 1.0)
        weight = trial.suggest_float(f"{short}_weight", self.min_weight, self.max_weight)
        layer_max = layer_min + span * (last - layer_min)
        return ComponentParameters(
            self._depth(layer_min), self._depth(layer_max), weight if edited else 0.0
        )

    def _suggest_kernel(
        self, trial: optuna.trial.BaseTrial, short: str, *, edited: bool
    ) -> KernelParameters:
        position = trial.suggest_float(f"{short}_position", *self.layer_range)
        weight = trial.suggest_float(f"{short}_weight", self.min_weight, self.max_weight)
        min_share = trial.suggest_float(f"{short}_min_share", 0.0, 1.0)
        # At least one layer, so that a peak between two layers reaches both.
        distance = trial.suggest_float(f"{short}_distance", 1.0 / max(1, self.n_layers - 1), 1.0)
        return KernelParameters(
            self._depth(position), weight if edited else 0.0, min_share, distance
        )

    def _depth(self, share: float) -> float:
        """Return the share as a fraction of depth.

        If layers are confined, it is a share of the remaining ones, so that every range and every
        peak contains a layer that may be edited.
        """
        if self.rows is None:
            return share
        layer = self.rows[round(share * (len(self.rows) - 1))] - 1
        return layer / max(1, self.n_layers - 1)

    def share_of(self, depth: float) -> float:
        """Return the share of a fraction of depth, or of the nearest one available."""
        rows = self.rows
        if rows is None:
            return depth
        wanted = 1 + depth * (self.n_layers - 1)
        nearest = min(range(len(rows)), key=lambda i: abs(rows[i] - wanted))
        return nearest / max(1, len(rows) - 1)


def usable_rows(
    directions: AblationDirections, discriminative_layers: bool
) -> tuple[int, ...] | None:
    """Return the rows to which `discriminative_layers` confines a search; None for all.

    Raises:
        StudyError: the setting leaves no layer to edit.
    """
    if not discriminative_layers:
        return None
    rows, layers = directions.discriminative_rows, len(directions.rows) - 1
    if not rows:
        raise StudyError(
            f"none of {layers} layers has a direction that separates held-out prompts better than "
            "chance, so discriminative_layers=true leaves nothing to edit; set it to false, use "
            "more prompts, or another direction_method"
        )
    log.info("Searching %d of %d layers, whose directions separate the prompts", len(rows), layers)
    return rows

"""Parameters of a trial: the direction, the layers and the strength."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from heretic.model.stream_writers.components import EMBEDDINGS


@dataclass(frozen=True)
class ComponentParameters:
    """One component's edit: the same strength in a range of layers.

    Attributes:
        layer_min: first layer as a fraction of depth in [0, 1].
        layer_max: last layer, likewise; the range includes both ends.
        weight: strength w of the edit.
    """

    layer_min: float
    layer_max: float
    weight: float

    def strengths(self, n_layers: int) -> list[float]:
        """Return the strength by layer; 0 outside the range."""
        first = round(self.layer_min * (n_layers - 1))
        last = round(self.layer_max * (n_layers - 1))
        return [self.weight if first <= layer <= last else 0.0 for layer in range(n_layers)]


@dataclass(frozen=True)
class KernelParameters:
    """One component's edit: strongest at a peak, weaker on both sides, zero beyond a distance.

    Attributes:
        position: peak position as a fraction of depth in [0, 1]; may be between two layers.
        weight: strength w of the edit at the peak.
        min_share: share in [0, 1] of that strength that remains at the distance.
        distance: fraction of depth, above 0, that the edit covers on each side of the peak.
    """

    position: float
    weight: float
    min_share: float
    distance: float

    def strengths(self, n_layers: int) -> list[float]:
        """Return the strength by layer; 0 beyond the distance from the peak."""
        peak, reach = (share * (n_layers - 1) for share in (self.position, self.distance))
        offsets = [abs(layer - peak) for layer in range(n_layers)]
        return [
            self._at(offset / reach if offset else 0.0) if offset <= reach else 0.0
            for offset in offsets
        ]

    def _at(self, share: float) -> float:
        """Return the strength at a share of the distance."""
        return self.weight * (1.0 - (1.0 - self.min_share) * share)


@dataclass(frozen=True)
class AblationParameters:
    """A trial's edit.

    Attributes:
        direction_scope: `global` uses one direction everywhere, `per_layer` each layer's own.
        direction_index: index into the stream's states, for `global`; fractions interpolate.
        components: parameters by component name; for `embed`, if edited, the layers have no
            meaning.
        layers: layers that may be edited, whatever the components' ranges; all if None.
    """

    direction_scope: Literal["global", "per_layer"]
    direction_index: float | None
    components: Mapping[str, ComponentParameters | KernelParameters]
    layers: tuple[int, ...] | None = None

    def strengths(self, n_layers: int) -> dict[str, list[float]]:
        """Return the strength by component and layer; a single value for the embeddings.

        With per-layer directions, the embeddings count as part of the first layer, since they are
        edited along its direction: their own state has none, because the prompts' last tokens are
        all the same.
        """
        allowed = set(range(n_layers) if self.layers is None else self.layers)
        found = {
            name: [
                strength if layer in allowed else 0.0
                for layer, strength in enumerate(part.strengths(n_layers))
            ]
            for name, part in self.components.items()
            if name != EMBEDDINGS
        }
        if EMBEDDINGS in self.components:
            allows = self.direction_scope == "global" or 0 in allowed
            found[EMBEDDINGS] = [self.components[EMBEDDINGS].weight if allows else 0.0]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AblationParameters":
        """Rebuild from the values of `to_dict`; all layers are edited where `layers` is missing."""
        layers = values.get("layers")
        return cls(
            direction_scope=values["direction_scope"],
            direction_index=values["direction_index"],
            components={name: _component(part) for name, part in values["components"].items()},
            layers=None if layers is None else tuple(layers),
        )


def _component(values: Mapping[str, Any]) -> ComponentParameters | KernelParameters:
    """Return one component; only a tent has a peak position."""
    return KernelParameters(**values) if "position" in values else ComponentParameters(**values)

"""Directions to ablate, from the previous phase: one or several per layer, with their weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from heretic.ablation.linalg import orthonormalize
from heretic.errors import DirectionError

# For unit vectors: a smaller norm is a rounding error without a meaningful direction.
SMALLEST_NORM = 1e-6
AGAIN = "delete the directions and run again"


@dataclass(frozen=True, eq=False)
class DirectionCombination:
    """Directions D [k, d_model] as combinations of a study's rows.

    Attributes:
        study: the rows of the study [n_layers + 1, k, d_model], compared by identity, since
            products with one study's rows cannot be used for directions of another.
        indices: indices of the m rows used, counted over layers and directions.
        coefficients: C float64 [k, m] on the CPU, such that D = C (g * rows[indices]), where g is
            the gain of D's writer.
    """

    study: Tensor
    indices: tuple[int, ...]
    coefficients: Tensor

    @classmethod
    def of_rows(cls, study: Tensor, *numbers: int) -> "DirectionCombination":
        """Return all k directions of each of these states, concatenated."""
        count = study.shape[1]
        indices = tuple(number * count + each for number in numbers for each in range(count))
        return cls(study, indices, torch.eye(len(indices), dtype=torch.float64))

    def times(self, matrix: Tensor) -> "DirectionCombination":
        """Return combinations of these directions: `matrix` [n, k] times them."""
        return DirectionCombination(
            self.study, self.indices, matrix.to("cpu", torch.float64) @ self.coefficients
        )

    def orthonormal(self, vectors: Tensor, units: Tensor) -> "DirectionCombination":
        """Return this mixture after orthonormalization of its `vectors`.

        Args:
            vectors: [k, d_model], the vectors of this mixture.
            units: [k, d_model], `orthonormal(vectors)`.
        """
        # vectors = L units with a lower triangular L, because the first n units span the first n
        # vectors.
        lower = (vectors.double() @ units.double().T).tril().cpu()
        identity = torch.eye(len(lower), dtype=torch.float64)
        return self.times(torch.linalg.solve_triangular(lower, identity, upper=False))

    def rows(self, gain: Tensor | None = None) -> Tensor:
        """Return g * R float64 [m, d_model], on the study's device."""
        chosen = self.study.flatten(0, 1)[list(self.indices)].double()
        return chosen if gain is None else chosen * gain.to(chosen)

    def amplification(self, gain: Tensor | None = None) -> float:
        """Return the loss of precision of the directions' products relative to the study's rows.

        It is large if rows nearly cancel each other, and 1 if the directions are rows themselves.
        """
        lengths = self.rows(gain).norm(dim=1).cpu()
        return float((self.coefficients.abs() @ lengths).max())

    @cached_property
    def _placed(self) -> dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]]:
        return {}

    def combine(self, products: Tensor) -> Tensor:
        """Return C products[..., indices, :] [..., k, n] of products [..., all study rows, n]."""
        key = products.device, products.dtype
        if key not in self._placed:  # one mixture serves many writers
            indices = torch.tensor(self.indices, device=products.device)
            self._placed[key] = indices, self.coefficients.to(products)
        indices, coefficients = self._placed[key]
        return coefficients @ products.index_select(-2, indices)


@dataclass(frozen=True)
class AblationDirections:
    """Orthonormal directions of each state of the residual stream.

    Attributes:
        rows: [n_layers + 1, k, d_model]; row 0 is the embeddings', row l + 1 that of the state
            written by layer l.
        weights: [n_layers + 1, k], each direction's share of a trial's strength.
        discriminative: bool [n_layers + 1], whether a row separates held-out prompts better than
            chance.
    """

    rows: Tensor
    weights: Tensor
    discriminative: Tensor

    @classmethod
    def of(
        cls, rows: Tensor, weights: Tensor | None = None, discriminative: Tensor | None = None
    ) -> "AblationDirections":
        """Create from directions [n_layers + 1, d_model] or [n_layers + 1, k, d_model].

        Args:
            rows: orthonormal for each state; those of the embeddings may be zero.
            weights: [n_layers + 1, k]; if None, every direction gets the whole strength.
            discriminative: [n_layers + 1]; if None, every row is.

        Raises:
            DirectionError: the shapes are inconsistent.
        """
        if rows.ndim == 2:
            rows = rows[:, None]
        if rows.ndim != 3:
            raise DirectionError(f"directions have {rows.ndim} dimensions, not 2 or 3; {AGAIN}")
        found = cls(
            rows,
            torch.ones(rows.shape[:2]) if weights is None else weights,
            torch.ones(len(rows), dtype=torch.bool)
            if discriminative is None
            else discriminative.bool(),
        )
        for name, part, shape in (
            ("direction_weights", found.weights, rows.shape[:2]),
            ("discriminative", found.discriminative, rows.shape[:1]),
        ):
            if part.shape != shape:
                raise DirectionError(
                    f"{name} has shape {tuple(part.shape)}, expected {tuple(shape)}; {AGAIN}"
                )
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "AblationDirections":
        """Create from the contents of `directions.safetensors`; requires only `refusal_directions`.

        Raises:
            DirectionError: `refusal_directions` is missing, or the shapes are inconsistent.
        """
        if "refusal_directions" not in tensors:
            raise DirectionError(f"there are no refusal_directions; {AGAIN}")
        return cls.of(
            tensors["refusal_directions"],
            tensors.get("direction_weights"),
            tensors.get("discriminative"),
        )

    @property
    def sha256(self) -> str:
        """Hash of the ablated directions, the same for files that differ only elsewhere."""
        digest = hashlib.sha256()
        for part in (self.rows, self.weights, self.discriminative):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def discriminative_rows(self) -> tuple[int, ...]:
        """Layer rows (from 1 on) that separate held-out prompts."""
        return tuple(row for row in range(1, len(self.rows)) if self.discriminative[row])

    def of_layer(self, layer: int) -> tuple[Tensor, list[float]]:
        """Return the directions [k, d_model] of the state written by a layer, and their weights.

        Raises:
            DirectionError: the layer does not exist.
        """
        self._require(layer + 1)
        return self.rows[layer + 1], self.weights[layer + 1].tolist()

    def at(self, index: float) -> tuple[Tensor, list[float]]:
        """Return orthonormal directions [k, d_model] between neighbors at an index, and weights.

        Args:
            index: position in [0, n_layers].

        Raises:
            DirectionError: the index is outside the rows, or the neighbors cancel each other.
        """
        units = self._between(index)[1]
        low, high, share = self._neighbors(index)
        weights = torch.lerp(self.weights[low].double(), self.weights[high].double(), share)
        return units.to(self.rows.dtype), weights.tolist()

    def mixture_of_layer(self, layer: int) -> DirectionCombination:
        """Return `of_layer` as a mixture of the rows.

        Raises:
            DirectionError: the layer does not exist.
        """
        self._require(layer + 1)
        return DirectionCombination.of_rows(self.rows, layer + 1)

    def mixture_at(self, index: float) -> DirectionCombination:
        """Return `at` as a mixture of the rows.

        Raises:
            DirectionError: the index is outside the rows, or the neighbors cancel each other.
        """
        vectors, units, signs = self._between(index)
        low, high, share = self._neighbors(index)
        parts = torch.cat([(1 - share) * torch.ones_like(signs).diag(), (share * signs).diag()], 1)
        return (
            DirectionCombination.of_rows(self.rows, low, high)
            .times(parts)
            .orthonormal(vectors, units)
        )

    def _neighbors(self, index: float) -> tuple[int, int, float]:
        """Return the rows below and above an index, and the share of the one above."""
        self._require(index)
        low = int(index)
        return low, min(low + 1, len(self.rows) - 1), index - low

    def _between(self, index: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return mixed neighbors, orthonormalized [k, d_model], and signs [k] of those above."""
        low, high, share = self._neighbors(index)
        below, above = self.rows[low].double(), self.rows[high].double()
        signs = _signs(above, below)
        vectors = torch.lerp(below, above * signs[:, None], share)
        try:
            return vectors, orthonormal(vectors), signs
        except DirectionError as error:
            raise DirectionError(
                f"directions {low} and {high} cancel at index {index:.3f}; use direction_scope="
                "per_layer"
            ) from error

    def _require(self, index: float) -> None:
        if not 0 <= index <= len(self.rows) - 1:
            raise DirectionError(
                f"there are no directions at index {index:.3f}; it must be from 0 to "
                f"{len(self.rows) - 1}; do the directions belong to this model?"
            )


def orthonormal(vectors: Tensor) -> Tensor:
    """Return orthonormal rows [k, d_model]; the first n span the first n vectors (Gram-Schmidt).

    Args:
        vectors: [k, d_model], in order of priority.

    Raises:
        DirectionError: a vector is in the span of the preceding ones.
    """
    units, lengths = orthonormalize(vectors)
    for number in (lengths < SMALLEST_NORM).nonzero().flatten().tolist():
        raise DirectionError(f"direction {number} is in the span of the previous ones")
    return units


def _signs(above: Tensor, below: Tensor) -> Tensor:
    """Return -1 for each row of `above` [k] that points away from that of `below`, else 1.

    All but the first are eigenvectors or similar, whose sign is arbitrary. The first points from
    good to bad in every layer and keeps its sign.
    """
    signs = torch.where((above * below).sum(-1) < 0, -1.0, 1.0).double()
    signs[0] = 1.0
    return signs

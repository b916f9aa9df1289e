"""A trial's directions as mixtures of its study's, so that products can be reused.

Every operation on directions between the study and a matrix is linear: mixing two neighbors,
flipping signs, multiplying by a writer's gain g, and orthonormalizing, which for k vectors is a
lower triangular k x k matrix. So D = C (g * R) with few rows R of the study, and
D W = C ((g * R) W): products with the study's rows, computed once, serve every trial.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mixture:
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
    def of_rows(cls, study: Tensor, *numbers: int) -> "Mixture":
        """Return all k directions of each of these states, concatenated."""
        count = study.shape[1]
        indices = tuple(number * count + each for number in numbers for each in range(count))
        return cls(study, indices, torch.eye(len(indices), dtype=torch.float64))

    def times(self, matrix: Tensor) -> "Mixture":
        """Return combinations of these directions: `matrix` [n, k] times them."""
        return Mixture(
            self.study, self.indices, matrix.to("cpu", torch.float64) @ self.coefficients
        )

    def orthonormal(self, vectors: Tensor, units: Tensor) -> "Mixture":
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

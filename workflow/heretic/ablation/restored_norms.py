"""The factors that bring norms back after an edit, found without the edited matrix.

In the notation of `projection`, with G = D D^T, which is 1 but for rounding:

    |E_:j|^2 = |W_:j|^2 - 2 sum_l s_l V_lj^2 + sum_lm s_l s_m G_lm V_lj V_mj
    |E_i:|^2 = |W_i:|^2 - 2 sum_l s_l D_li (W V^T)_il + sum_lm s_l s_m D_li D_mi (V V^T)_lm

The norms of W are taken once per study. V, V V^T and W V^T need W to be read once or twice for each
set of directions; those of the last few are kept, so that a study whose trials take each layer's
own directions reads W no more. What depends on the strengths is a handful of vectors per trial.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heretic.ablation.projection import NormPreservation

# Sets of directions per matrix: a layer's own, and what global trials were about lately.
KEPT = 4
# Where less than this share of a squared norm is left, the formulas subtract almost equal numbers.
CANCELLED = 0.1


@dataclass(frozen=True)
class Products:
    """What the factors need of W for given directions, in float32 at least.

    Attributes:
        units: D [k, d_model].
        read: V = D W [k, d_in].
        gram: G = D D^T [k, k] for columns, V V^T [k, k] for rows.
        written: W V^T [d_model, k]; None for columns, which do not need it.
    """

    units: Tensor
    read: Tensor
    gram: Tensor
    written: Tensor | None


class RestoredNorms:
    """Factors of one matrix W [d_model, d_in], which must not change meanwhile."""

    def __init__(
        self, weight: Tensor | Callable[[], Tensor], norm_preservation: NormPreservation
    ) -> None:
        """Norms of W, in float32 at least, are taken here.

        Args:
            weight: W, perhaps a view; or what makes it, anew each time it is needed.
            norm_preservation: `column`, `row` or `frobenius`.
        """
        self._source = weight
        self.norm_preservation: NormPreservation = norm_preservation
        self._by_row = norm_preservation == "row"
        wide = self._wide(self.weight)
        self._wanted = wide.square().sum(1 if self._by_row else 0)
        self._kept: dict[bytes, Products] = {}

    @property
    def weight(self) -> Tensor:
        """W."""
        return self._source if isinstance(self._source, Tensor) else self._source()

    def factors(self, directions: Tensor, strengths: Sequence[float]) -> Tensor:
        """By what the edited matrix is multiplied: its rows, its columns, or all of it.

        Args:
            directions: D, orthonormal rows [k, d_model].
            strengths: s, one for each direction.

        Returns:
            r [d_model], c [d_in] or g [1] in float32 at least. As in `ablate_matrix`, 1 where the
            edit leaves only rounding errors, which there is no sense in scaling up.
        """
        products = self._products(directions)
        given = products.units.new_tensor(strengths)
        found, wanted = self._left(products, given), self._wanted
        if self.norm_preservation == "frobenius":
            found, wanted = found.sum(0, keepdim=True), wanted.sum(0, keepdim=True)
        found, wanted = found.sqrt(), wanted.sqrt()
        left = found > wanted * torch.finfo(found.dtype).eps ** 0.5
        return torch.where(left, wanted / found, torch.ones_like(found))

    def _left(self, products: Products, strengths: Tensor) -> Tensor:
        """Squared norms of E's rows [d_model] or columns [d_in]."""
        scaled = strengths[:, None] * (products.units if self._by_row else products.read)
        taken = scaled * (products.read if products.written is None else products.written.T)
        again = (products.gram @ scaled) * scaled
        squares = self._wanted - 2 * taken.sum(0) + again.sum(0)
        few = (squares < CANCELLED * self._wanted).nonzero().flatten()
        if len(few):
            squares[few] = self._measured(products, strengths, few)
        return squares

    def _measured(self, products: Products, strengths: Tensor, few: Tensor) -> Tensor:
        """Squared norms of a few rows or columns of E, from these themselves."""
        if self._by_row:
            scaled = strengths[:, None] * products.units[:, few]
            return (self._wide(self.weight[few]) - scaled.T @ products.read).square().sum(1)
        scaled = strengths[:, None] * products.read[:, few]
        return (self._wide(self.weight[:, few]) - products.units.T @ scaled).square().sum(0)

    def _products(self, directions: Tensor) -> Products:
        key = directions.detach().to("cpu", torch.float64).numpy().tobytes()
        products = self._kept.pop(key, None) or self._multiply(directions)
        self._kept[key] = products
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return products

    def _multiply(self, directions: Tensor) -> Products:
        wide = self._wide(self.weight)
        units = directions.to(wide)
        read = units @ wide
        if self._by_row:
            return Products(units, read, read @ read.T, wide @ read.T)
        return Products(units, read, units @ units.T, None)

    def _wide(self, part: Tensor) -> Tensor:
        return part.to(torch.promote_types(part.dtype, torch.float32))

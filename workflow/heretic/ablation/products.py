"""Products of a matrix with directions, and its norms, as required by an edit.

With rows R these are R W and, if norms of rows are restored, W (R W)^T. Computed with all rows of a
study at a writer's first edit, they yield those of every later edit through
`DirectionCombination.combine`, so that no later edit reads W for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections, DirectionCombination
from heretic.ablation.linalg import pieces, wide_dtype
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation
from heretic.console import log
from heretic.model.batching import is_out_of_memory, release_memory
from heretic.model.stream_writers.writer import StreamWriter

# Number of elements of W in memory in single precision at a time.
LIMIT = 2**23
# If less than this share of a squared norm is left, the formulas subtract nearly equal numbers.
CANCELLED = 0.1


@dataclass(frozen=True)
class DirectionProducts:
    """Products of W [..., d_model, d_in] with rows R, in float32 or wider, on the device of R.

    Attributes:
        units: R [n, d_model].
        read: R W [..., n, d_in].
        written: W (R W)^T [..., d_model, n] if norms of rows are restored, else None.
        squares: |W_i:|^2 [..., d_model] if norms of rows are restored, |W_:j|^2 [..., d_in] if
            other norms are, else None.
    """

    units: Tensor
    read: Tensor
    written: Tensor | None
    squares: Tensor | None

    def mixed(self, mixture: DirectionCombination, directions: Tensor) -> "DirectionProducts":
        """Return the products with a mixture of the rows, which is `directions` [k, d_model]."""
        written = None if self.written is None else mixture.combine(self.written.mT).mT
        units = directions.to(self.read)
        return DirectionProducts(units, mixture.combine(self.read), written, self.squares)


def measure(
    weight: Tensor,
    rows: Tensor,
    norm_preservation: NormPreservation,
    device: torch.device | None = None,
    limit: int = LIMIT,
) -> DirectionProducts:
    """Compute the products while reading a matrix once, a few columns at a time.

    Args:
        weight: W [d_model, d_in], or [experts, d_model, d_in]; may be on a device other than
            `device`.
        rows: R [n, d_model].
        norm_preservation: which norms are to be restored.
        device: device of the computation; by default that of the matrix.
        limit: number of matrix elements in memory in single precision at a time.
    """
    place, dtype = device or weight.device, wide_dtype(weight.dtype)
    stack = weight if weight.ndim == 3 else weight[None]
    n_matrices, d_model, d_in = stack.shape
    units = rows.to(place, dtype)
    read = units.new_empty(n_matrices, len(units), d_in)
    by_row, by_column = norm_preservation == "row", norm_preservation in ("column", "frobenius")
    written = units.new_zeros(n_matrices, d_model, len(units)) if by_row else None
    squares = units.new_zeros(n_matrices, d_model if by_row else d_in)
    for matrices, columns in pieces(n_matrices, d_in, d_model, limit):
        part = stack[matrices, :, columns].to(place, dtype)
        seen = units @ part
        read[matrices, :, columns] = seen
        if written is not None:
            written[matrices] += part @ seen.mT
            squares[matrices] += part.square().sum(-1)
        elif by_column:
            squares[matrices, columns] = part.square().sum(-2)
    kept = squares if by_row or by_column else None
    if weight.ndim == 3:
        return DirectionProducts(units, read, written, kept)
    return DirectionProducts(units, read[0], _first(written), _first(kept))


def _first(stack: Tensor | None) -> Tensor | None:
    return None if stack is None else stack[0]


class ProductCache:
    """Products of each writer's matrix with all rows of a study, computed on first use.

    They take about n_layers * k / d_model of the matrices' size in single precision. If memory does
    not suffice, no products are kept.
    """

    def __init__(
        self, directions: AblationDirections | None, norm_preservation: NormPreservation
    ) -> None:
        """Store the options; without `directions`, no products are ever kept."""
        self.directions, self.norm_preservation = directions, norm_preservation
        self._tables: dict[str, DirectionProducts] = {}

    def known(self, edit: Edit, weight: Callable[[], Tensor]) -> DirectionProducts | None:
        """Return the products with an edit's directions, if these are the study's.

        Args:
            edit: edit of a writer whose matrix is always the same.
            weight: returns the original matrix [d_model, d_in], or that of each expert; only called
                at the first edit of a writer.

        Returns:
            Products on the writer's device; None if the edit does not express its directions in
            this study's, or if memory ran out.
        """
        mixture, study = edit.mixture, self.directions
        if study is None or mixture is None or mixture.study is not study.rows:
            return None
        table = self._tables.get(edit.writer.name) or self._try(edit.writer, study, weight)
        return None if table is None else table.mixed(mixture, edit.directions)

    def of(self, edit: Edit, weight: Callable[[], Tensor]) -> DirectionProducts:
        """Return the products with an edit's directions, reading the matrix if they are unknown."""
        found = self.known(edit, weight)
        if found is not None:
            return found
        return measure(weight(), edit.directions, self.norm_preservation, edit.writer.device)

    def _try(
        self, writer: StreamWriter, study: AblationDirections, weight: Callable[[], Tensor]
    ) -> DirectionProducts | None:
        rows = study.rows.flatten(0, 1).double()
        if writer.gain is not None:
            rows = rows * writer.gain.to(rows)
        try:
            table = measure(weight(), rows, self.norm_preservation, writer.device)
            self._tables[writer.name] = table
            return table
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, where the traceback would keep the partial products alive.
        self._tables.clear()
        self.directions = None
        release_memory()
        log.warning("Out of memory caching direction products; recomputing them per edit")
        return None


def restoring_factors(
    products: DirectionProducts,
    strengths: Sequence[float],
    norm_preservation: NormPreservation,
    weight: Callable[[], Tensor],
    limit: int = LIMIT,
) -> Tensor:
    """Return the factors of the edited matrix: for its rows, its columns, or all of it.

    Args:
        products: products of W [..., d_model, d_in] with orthonormal directions D [k, d_model],
            computed for the same norms.
        strengths: s, one per direction.
        norm_preservation: `column`, `row` or `frobenius`.
        weight: returns W, possibly on another device; only called if the edit leaves little of it.
        limit: number of elements of W then in memory in single precision at a time.

    Returns:
        r [..., d_model], c [..., d_in] or g [..., 1] in float32 at least. As in `ablate_matrix`, 1
        where the edit leaves only rounding errors, which must not be scaled up.
    """
    wanted = products.squares
    if wanted is None:
        raise ValueError("the products were computed without the norms")
    given = products.units.new_tensor(strengths)
    found = _left(products, wanted, given)
    cancelled = found < CANCELLED * wanted
    if cancelled.any():
        _measure_again(found, cancelled, products, given, weight(), limit)
    if norm_preservation == "frobenius":
        found, wanted = found.sum(-1, keepdim=True), wanted.sum(-1, keepdim=True)
    found, wanted = found.sqrt(), wanted.sqrt()
    left = found > wanted * torch.finfo(found.dtype).eps ** 0.5
    return torch.where(left, wanted / found, torch.ones_like(found))


def _left(products: DirectionProducts, before: Tensor, strengths: Tensor) -> Tensor:
    """Return squared norms of E's rows [..., d_model] or columns [..., d_in]; `before` are W's."""
    if products.written is None:
        scaled = strengths[:, None] * products.read
        taken, gram = scaled * products.read, products.units @ products.units.T
    else:
        scaled = strengths[:, None] * products.units
        taken, gram = scaled * products.written.mT, products.read @ products.read.mT
    again = (gram @ scaled) * scaled
    return before - 2 * taken.sum(-2) + again.sum(-2)


def _measure_again(
    squares: Tensor,
    cancelled: Tensor,
    products: DirectionProducts,
    strengths: Tensor,
    weight: Tensor,
    limit: int,
) -> None:
    """Write the squared norms of a few rows or columns of E, computed directly from them."""
    if weight.ndim == 2:
        whole = squares, cancelled, products.read, weight
        squares, cancelled, read, weight = (part[None] for part in whole)
    else:
        read = products.read
    by_row = products.written is not None
    for expert in cancelled.any(-1).nonzero().flatten().tolist():
        lines = cancelled[expert].nonzero().flatten()
        for few in torch.split(lines, max(1, limit // weight.shape[2 if by_row else 1])):
            units, seen = products.units, read[expert]
            units, seen = (units[:, few], seen) if by_row else (units, seen[:, few])
            there = few.to(weight.device)
            part = weight[expert, there] if by_row else weight[expert][:, there]
            edited = part.to(seen.device, wide_dtype(part.dtype)) - (
                (strengths[:, None] * units).T @ seen
            )
            squares[expert, few] = edited.square().sum(1 if by_row else 0)

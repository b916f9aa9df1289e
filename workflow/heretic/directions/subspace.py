"""The span of a layer's residuals, in which every method works exactly and cheaply.

n states span at most n of d_model dimensions. With X = [B - g; G - g] (g the mean of the good
states) and X^T = Q R, the rows of R^T are the states in the basis Q: distances, inner products and
eigenvectors are the same there, and n is usually a tenth of d_model. Q is never formed: a direction
y is mapped back to Q y by the Householder reflections themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CHUNK_BYTES = 256_000_000
# If two means differ by less than this share of the states' own norm, the difference is rounding.
INDISTINGUISHABLE = 1e-6


class Subspace:
    """States of a few layers in coordinates of their own span.

    Attributes:
        bad, good: coordinates [layers, n, r] in float64, r = min(n_bad + n_good, d_model),
            centered on the mean of the good states.
        origin: that mean [layers, d_model] in float64.
        distinct: whether the means differ by more than rounding [layers]. If they do not, all
            coordinates are zero, so that no direction is found.
    """

    def __init__(self, bad: Tensor, good: Tensor, device: torch.device) -> None:
        """Factorize the residuals [n, layers, d_model] of each layer on `device`."""
        both = torch.cat([bad, good]).to(device).double()
        self.origin = both[len(bad) :].mean(0)
        columns = (both - self.origin).permute(1, 2, 0)  # [layers, d_model, n]
        with _one_thread():
            reflections, self._scales = torch.geqrf(columns.contiguous())
        rank = self._scales.shape[-1]
        coordinates = reflections[:, :rank].triu().mT
        difference = coordinates[:, : len(bad)].mean(1) - coordinates[:, len(bad) :].mean(1)
        self.distinct = difference.norm(dim=-1) > INDISTINGUISHABLE * self.origin.norm(dim=-1)
        coordinates = torch.where(self.distinct[:, None, None], coordinates, 0.0)
        self._reflections = reflections[:, :, :rank]
        self.bad, self.good = coordinates[:, : len(bad)], coordinates[:, len(bad) :]

    def lift(self, coordinates: Tensor) -> Tensor:
        """Map vectors [layers, k, r] of the span to vectors [layers, k, d_model] of the stream."""
        layers, d_model, rank = self._reflections.shape
        padded = coordinates.new_zeros(layers, d_model, coordinates.shape[1])
        padded[:, :rank] = coordinates.mT
        return torch.ormqr(self._reflections, self._scales, padded).mT


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within the block, use one thread; more gain little at this size and stall on shared cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def layer_chunks(bad: Tensor, good: Tensor) -> Iterator[slice]:
    """Return slices of the layers of residuals [n, layers, d_model] for factorization."""
    a_layer = (len(bad) + len(good)) * bad.shape[-1] * 8
    width = max(1, CHUNK_BYTES // max(1, a_layer))
    for start in range(0, bad.shape[1], width):
        yield slice(start, min(start + width, bad.shape[1]))


def working_device(device: torch.device) -> torch.device:
    """Return `device`, or the CPU if the device has no float64."""
    return torch.device("cpu") if device.type == "mps" else device

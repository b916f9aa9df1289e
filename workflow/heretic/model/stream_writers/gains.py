"""Per-channel factors between a known output and the stream.

A norm or layer scale between a map and the stream multiplies each channel by its own factor, in
addition to a factor shared by all channels of a token. The vector received by a token is compared
with the ray along gain * output, so that the shared factor does not matter.
"""

from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from heretic.model.devices import brought

# Maximum residual off the ray, as a share of it: half-precision rounding is a few parts per
# thousand for a probe of size 1 at a residual multiplier of 0.1.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
HALF_TOLERANCE = 0.02
SMALLEST = 1e-30


def on_ray(update: Tensor, after: Tensor, ray: Tensor, dtype: torch.dtype) -> bool:
    """Return whether every token received a multiple of one vector, at least one of them nonzero.

    In half precision, a token for which experts cancel each other may be left with their rounding
    error, which a norm enlarges to the size of the rest; at most half as many such tokens as others
    are accepted.

    Args:
        update: [tokens, d_model].
        after: the stream [tokens, d_model] that contains the update, which determines its rounding.
        ray: [d_model].
        dtype: data type of the network's computation.
    """
    unit = ray.to(update) / ray.norm()
    sizes, rest = update.norm(dim=-1), _beside(update, unit).norm(dim=-1)
    share = TOLERANCE.get(dtype, HALF_TOLERANCE)
    rounding = 2 * torch.finfo(dtype).eps * after.norm(dim=-1).max()
    good = (sizes > 0) & (rest <= share * sizes)
    off = ~(rest <= share * sizes + rounding)
    let_pass = 0 if dtype in TOLERANCE else int(good.sum()) // 2
    return bool(good.any() and off.sum() <= let_pass)


def read_gain(update: Tensor, signs: Tensor, layer: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """Return the factors implied by an `update` from an output of +1 and -1, or None if equal.

    The result is only a proposal, to be confirmed by `on_ray` with other outputs. If it matches a
    product of the layer's parameters, these are used, since they are exact and measurements are
    rounded.

    Args:
        update: vectors received by the tokens [tokens, d_model], nonzero for at least one token.
        signs: the output [d_model], +1 or -1.
        layer: layer whose norms may be between the output and the stream.
        dtype: data type of the network's computation.

    Returns:
        gain [d_model], scaled to a mean square of 1.
    """
    per_token = update * signs
    units = per_token / per_token.norm(dim=-1, keepdim=True).clamp_min(SMALLEST)
    # Cosines with the token that most others resemble; dissimilar tokens are rounding errors.
    cosines = units @ units[(units @ units.T).abs().sum(-1).argmax()]
    alike = torch.where(cosines.abs() > 1 - HALF_TOLERANCE, cosines.sign(), 0.0)
    measured = _unit((per_token * alike[:, None]).sum(0))
    known = [torch.ones_like(measured), *_factors(layer, measured)]
    products = [_unit(one * other) for one, other in combinations_with_replacement(known, 2)]
    misses = [float(_beside(measured[None], product).norm()) for product in products]
    best = min(range(len(products)), key=misses.__getitem__)
    explained = misses[best] <= TOLERANCE.get(dtype, HALF_TOLERANCE) / 4
    gain = (products[best] if explained else measured) * len(measured) ** 0.5
    even = (gain - gain.mean()).abs().max() <= 1e-6 * gain.mean().abs()
    return None if even else gain


def _factors(layer: nn.Module, like: Tensor) -> list[Tensor]:
    """Return a layer's parameters and buffers [d_model], and those plus 1, as some norms add 1."""
    vectors = [vector for module in layer.modules() for vector in _vectors(module, like)]
    return [factor for vector in vectors for factor in (vector, 1 + vector)]


def _vectors(module: nn.Module, like: Tensor) -> list[Tensor]:
    """Return the vectors of a module itself, wherever they are stored."""

    def own() -> list[Tensor]:
        named = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        return [tensor for _, tensor in named if tensor.shape == like.shape]

    if not own():
        return []
    with brought(module):
        return [tensor.detach().to("cpu", like.dtype, copy=True) for tensor in own()]


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / vector.norm().clamp_min(SMALLEST)
    return unit


def _beside(rows: Tensor, unit: Tensor) -> Tensor:
    beside: Tensor = rows - (rows @ unit)[:, None] * unit
    return beside

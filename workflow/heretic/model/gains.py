"""Per-channel factors between a known output and the stream.

A norm or a layer scale between a map and the stream multiplies each channel by a factor of its
own, beside a factor that all channels of a token share. What a token received is compared with the
ray along gain * output, so that the shared factor is of no matter.
"""

from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from heretic.model.devices import brought

# What may be left over beside the ray, as a share of it: rounding of half precision is a few parts
# in a thousand of a probe of size 1 at a residual multiplier of 0.1.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
HALF_TOLERANCE = 0.02
SMALLEST = 1e-30


def on_ray(update: Tensor, after: Tensor, ray: Tensor, dtype: torch.dtype) -> bool:
    """Return whether every token received a multiple of one vector, and some token not zero.

    In half precision a token for which experts cancel each other may be left with their rounding,
    which a norm makes as large as the rest; half as many of these are let pass as are not.

    Args:
        update: [tokens, d_model].
        after: the stream [tokens, d_model] of which it is a part, which tells its rounding.
        ray: [d_model].
        dtype: in which the network computes.
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
    """Return the factors that make `update` of an output of +1 and -1, or None if equal.

    The outcome is only a proposal, which `on_ray` has to confirm with other outputs. Where it is
    the product of parameters of the layer, these are taken, since they are exact where what was
    measured is rounded.

    Args:
        update: what the tokens received [tokens, d_model], for one token at least not zero.
        signs: the output [d_model], +1 or -1.
        layer: whose norms may stand between.
        dtype: in which the network computes.

    Returns:
        gain [d_model], scaled to a mean square of 1.
    """
    per_token = update * signs
    units = per_token / per_token.norm(dim=-1, keepdim=True).clamp_min(SMALLEST)
    # The token that most others resemble, and these: the rest is rounding.
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
    """Return parameters and buffers [d_model] of a layer, and those to which a norm adds 1."""
    vectors = [vector for module in layer.modules() for vector in _vectors(module, like)]
    return [factor for vector in vectors for factor in (vector, 1 + vector)]


def _vectors(module: nn.Module, like: Tensor) -> list[Tensor]:
    """Return those that a module holds itself, wherever they are kept."""

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

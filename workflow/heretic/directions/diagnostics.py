"""Contrast of bad and good residuals, and the agreement of methods, halves and chance."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

from heretic.directions.methods import find_directions, probe_accuracy
from heretic.directions.options import METHODS, ExtractionOptions
from heretic.directions.separation import generator
from heretic.directions.subspace import Subspace, layer_chunks, working_device

MEDIAN_STEPS = 200
MEDIAN_TOLERANCE = 1e-10  # relative to the extent of the states
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Contrast:
    """Directions of every layer, and their diagnostics; float64 on the CPU.

    Attributes:
        directions: orthonormal rows [layers, k, d_model], the first from good to bad.
        control: a direction [layers, d_model], found in the same way from randomly relabeled
            prompts.
        agreement: cosine [layers, methods] of the first direction with the result of each of
            `METHODS`.
        stability: cosine [layers] between the first directions of two random halves.
        probe_accuracy: cross-validated, balanced [layers].
        silhouette: silhouette score of the two sets of states [layers].
        good_median, bad_median: geometric medians [layers, d_model].
    """

    directions: Tensor
    control: Tensor
    agreement: Tensor
    stability: Tensor
    probe_accuracy: Tensor
    silhouette: Tensor
    good_median: Tensor
    bad_median: Tensor


def directions_of(
    bad: Tensor, good: Tensor, options: ExtractionOptions, device: torch.device = CPU
) -> Tensor:
    """Return the directions of `options.direction_method` alone.

    Args:
        bad, good: residuals [n, layers, d_model].
        options: method and number of directions.
        device: device of the computation.

    Returns:
        [layers, n_directions, d_model] float64 on the CPU, orthonormal rows; zero where the sets
        do not differ.
    """
    found = [
        space.lift(find_directions(space.bad, space.good, options)).cpu()
        for space in _spaces(bad, good, device)
    ]
    return torch.cat(found)


def contrast(
    bad: Tensor, good: Tensor, options: ExtractionOptions, device: torch.device = CPU
) -> Contrast:
    """Return the directions of `directions_of`, with diagnostics of their reliability.

    Raises:
        DirectionError: there are too few prompts for the number of directions.
    """
    parts = [_contrast_in(space, options) for space in _spaces(bad, good, device)]
    return Contrast(
        **{
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(Contrast)
        }
    )


def _spaces(bad: Tensor, good: Tensor, device: torch.device) -> Iterator[Subspace]:
    for layers in layer_chunks(bad, good):
        yield Subspace(bad[:, layers], good[:, layers], working_device(device))


def _contrast_in(space: Subspace, options: ExtractionOptions) -> Contrast:
    bad, good = space.bad, space.good
    directions = find_directions(bad, good, options)
    medians = torch.stack([geometric_median(good), geometric_median(bad)], 1)
    good_median, bad_median = (space.lift(medians) + space.origin[:, None]).unbind(1)
    values = Contrast(
        directions=space.lift(directions),
        control=space.lift(_relabelled(bad, good, options)).squeeze(1),
        agreement=_agreement(bad, good, directions[:, 0], options),
        stability=_stability(bad, good, options),
        probe_accuracy=torch.tensor(probe_accuracy(bad, good, options.probe_c, options.seed)),
        silhouette=torch.tensor(_silhouettes(bad, good)),
        good_median=good_median,
        bad_median=bad_median,
    )
    return Contrast(**{name: value.double().cpu() for name, value in vars(values).items()})


def _relabelled(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    """Return one direction [layers, 1, r] of the same prompts with their labels shuffled."""
    both = torch.cat([bad, good], 1)
    order = torch.randperm(both.shape[1], generator=generator(options.seed, "control"))
    first, second = order[: bad.shape[1]], order[bad.shape[1] :]
    return find_directions(both[:, first], both[:, second], replace(options, n_directions=1))


def _agreement(bad: Tensor, good: Tensor, first: Tensor, options: ExtractionOptions) -> Tensor:
    alone = [replace(options, direction_method=name, n_directions=1) for name in METHODS]
    found = [find_directions(bad, good, one).squeeze(1) for one in alone]
    return torch.stack([(first * other).sum(-1) for other in found], -1)


def _stability(bad: Tensor, good: Tensor, options: ExtractionOptions) -> Tensor:
    one = replace(options, n_directions=1)
    first, second = (
        find_directions(bad[:, of_bad], good[:, of_good], one).squeeze(1)
        for of_bad, of_good in random_halves(bad.shape[1], good.shape[1], options.seed)
    )
    return (first * second).sum(-1)


def random_halves(n_bad: int, n_good: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return the indices of bad and of good prompts in each of two halves; pairs stay together."""
    shuffle, pairs = generator(seed, "halves"), min(n_bad, n_good)
    halves = torch.randperm(pairs, generator=shuffle).tensor_split(2)
    unpaired = pairs + torch.randperm(max(n_bad, n_good) - pairs, generator=shuffle)
    # The larger part of the unpaired prompts joins the smaller half.
    joined = zip(halves, reversed(unpaired.tensor_split(2)), strict=True)
    both = [(half, torch.cat([half, more])) for half, more in joined]
    return both if n_good >= n_bad else [(more, half) for half, more in both]


def geometric_median(states: Tensor) -> Tensor:
    """Return the point with the smallest sum of distances to the states, by Weiszfeld's iteration.

    Args:
        states: [layers, n, r].

    Returns:
        [layers, r].
    """
    extent = states.std(1).norm(dim=-1).max()
    point = states.mean(1)
    for _ in range(MEDIAN_STEPS):
        distance = (states - point[:, None]).norm(dim=-1, keepdim=True)
        weight = 1 / distance.clamp(min=float(MEDIAN_TOLERANCE * extent) or 1.0)
        moved = (states * weight).sum(1) / weight.sum(1)
        step = (moved - point).norm(dim=-1).max()
        point = moved
        if step <= MEDIAN_TOLERANCE * extent:
            break
    return point


def _silhouettes(bad: Tensor, good: Tensor) -> list[float]:
    labels = [1] * bad.shape[1] + [0] * good.shape[1]
    both = torch.cat([bad, good], 1).cpu()
    return [
        float(silhouette_score(points.numpy(), labels)) if points.any() else 0.0 for points in both
    ]

"""Warm-start trials of a search: edits known from elsewhere.

Warm starts determine which edits are tried, not how trials are scored: a study continues with other
ones, or with its first ones. The next trial is always the first warm start that is missing from the
study, so an interrupted search tries the same trials as an uninterrupted one.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler

from heretic.ablation.parameters import ComponentParameters, KernelParameters
from heretic.console import log
from heretic.errors import StudyError
from heretic.model.stream_writers.components import ATTENTION, EMBEDDINGS, MLP
from heretic.search.search_space import CHOICES, SHORT_NAMES, SearchSpace
from heretic.search.warm_start_sources import WarmStartTrial

Part = ComponentParameters | KernelParameters
# Reach of a tent without slopes beyond its last layer, in layers, so that rounding cannot exclude
# that layer.
MARGIN = 0.25
ROUNDING = 1e-9


def to_sampler_params(edit: WarmStartTrial, space: SearchSpace) -> dict[str, Any]:
    """Return the parameters with which a trial of this search reproduces the edit.

    Parameters without effect on the edit are left out. Values out of bounds are clipped and logged.

    Args:
        edit: edit of a model of any depth, in any form.
        space: search space of the current search.

    Returns:
        Parameters by name.

    Raises:
        StudyError: no trial of this search resembles the edit.
    """
    wanted = _wanted(edit, space)
    bounds = _distributions(space)
    found = {name: _allowed(edit, name, value, bounds[name]) for name, value in wanted.items()}
    changes = [
        f"{name} {wanted[name]:.3g} becomes {value:.3g}"
        for name, value in found.items()
        if isinstance(value, float) and abs(value - wanted[name]) > ROUNDING
    ]
    if changes:
        log.info("Clipped %s to the search bounds: %s", edit.name, ", ".join(changes))
    return found


def _distributions(space: SearchSpace) -> Mapping[str, BaseDistribution]:
    """Return the distributions of a trial's parameters, by name."""
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    space.suggest(trial)
    return trial.distributions


def _allowed(edit: WarmStartTrial, name: str, value: Any, distribution: BaseDistribution) -> Any:
    """Return the value, clipped to the bounds."""
    if isinstance(distribution, FloatDistribution):
        return min(max(float(value), distribution.low), distribution.high)
    assert isinstance(distribution, CategoricalDistribution)
    if value not in distribution.choices:
        choices = " or ".join(map(str, distribution.choices))
        raise StudyError(f"{edit.name} has the {name} {value}, but this search has only {choices}")
    return value


def _wanted(edit: WarmStartTrial, space: SearchSpace) -> dict[str, Any]:
    """Return parameters by name, ignoring their bounds."""
    parts = edit.parameters.components
    if not SHORT_NAMES.keys() <= parts.keys() <= {*SHORT_NAMES, EMBEDDINGS}:
        raise StudyError(
            f"{edit.name} edits {', '.join(parts) or 'nothing'}, but a trial of this search edits "
            f"{' and '.join(SHORT_NAMES)}"
        )
    if EMBEDDINGS in parts and not space.embeddings:
        raise StudyError(f"{edit.name} edits the embeddings; set ablate_embeddings=true")
    found: dict[str, Any] = {"direction_scope": edit.parameters.direction_scope}
    if edit.parameters.direction_index is not None:
        found["direction_index"] = _scaled(edit, space.n_layers)
    parts = {name: _confined(edit, name, space) for name in SHORT_NAMES} | {
        name: part for name, part in parts.items() if name == EMBEDDINGS
    }
    edited = [name for name in SHORT_NAMES if parts[name].weight > 0]
    found |= _edited(edit, edited, space)
    for name in edited:
        found |= _component(parts[name], SHORT_NAMES[name], space)
    if space.embeddings:
        found["embed_weight"] = parts[EMBEDDINGS].weight if EMBEDDINGS in parts else 0.0
    return found


def _scaled(edit: WarmStartTrial, n_layers: int) -> float:
    """Return the index of the same relative depth in a model with `n_layers` layers."""
    index = edit.parameters.direction_index
    assert index is not None
    if index <= 1.0 or edit.n_layers in (1, n_layers):
        return index
    return 1.0 + (index - 1.0) * (n_layers - 1) / (edit.n_layers - 1)


def _confined(edit: WarmStartTrial, name: str, space: SearchSpace) -> Part:
    """Return a component's part, or its edited range if the edit is confined to other layers."""
    part, confined = edit.parameters.components[name], edit.parameters.layers
    here = None if space.rows is None else tuple(row - 1 for row in space.rows)
    if confined is None or (confined == here and edit.n_layers == space.n_layers):
        return part
    strengths = edit.parameters.strengths(edit.n_layers)[name]
    layers = [layer for layer, strength in enumerate(strengths) if strength > 0]
    if not layers:
        return ComponentParameters(0.0, 0.0, 0.0)
    depth = max(1, edit.n_layers - 1)
    mean = sum(strengths[layer] for layer in layers) / len(layers)
    return ComponentParameters(layers[0] / depth, layers[-1] / depth, mean)


def _edited(edit: WarmStartTrial, edited: Collection[str], space: SearchSpace) -> dict[str, Any]:
    """Return this search's representation of the edited components.

    Raises:
        StudyError: this search cannot represent them.
    """
    if not edited:
        raise StudyError(f"{edit.name} edits neither of {' and '.join(SHORT_NAMES)}")
    if space.form == "components":
        return {"edited": next(key for key, names in CHOICES.items() if set(names) == set(edited))}
    # Without a choice of components, a strength of 0 leaves one out.
    left_out = [name for name in SHORT_NAMES if name not in edited]
    found: dict[str, Any] = {}
    if space.form == "kernel":
        found["mlp_edited"] = MLP in edited
        left_out = [name for name in left_out if name == ATTENTION]
    if left_out and space.min_weight > 0:
        raise StudyError(
            f"{edit.name} excludes {left_out[0]}, which this search, with "
            f"min_weight={space.min_weight}, allows only with search_space=components"
        )
    return found | {f"{SHORT_NAMES[name]}_weight": 0.0 for name in left_out}


def _component(part: Part, short: str, space: SearchSpace) -> dict[str, float]:
    """Return the parameters of an edited component in this search's form."""
    if space.form == "kernel":
        tent = part if isinstance(part, KernelParameters) else _as_tent(part, space.n_layers)
        return {
            f"{short}_position": space.share_of(tent.position),
            f"{short}_weight": tent.weight,
            f"{short}_min_share": tent.min_share,
            f"{short}_distance": tent.distance,
        }
    flat = part if isinstance(part, ComponentParameters) else _as_range(part, space.n_layers)
    layer_min, layer_max = space.share_of(flat.layer_min), space.share_of(flat.layer_max)
    first, last = space.layer_range
    start = min(max(layer_min, first), last)
    above = last - start
    return {
        f"{short}_layer_min": layer_min,
        # Share of the layers above the first one.
        f"{short}_layer_span": (max(layer_max, start) - start) / above if above > 0 else 0.0,
        f"{short}_weight": flat.weight,
    }


def _as_tent(part: ComponentParameters, n_layers: int) -> KernelParameters:
    """Return the same strengths as a tent; a single-layer tent slopes to its neighbors."""
    depth = max(1, n_layers - 1)
    first, last = round(part.layer_min * depth), round(part.layer_max * depth)
    reach = max(1.0, (last - first) / 2 + MARGIN)
    min_share = 0.0 if first == last else 1.0
    return KernelParameters((first + last) / 2 / depth, part.weight, min_share, reach / depth)


def _as_range(part: KernelParameters, n_layers: int) -> ComponentParameters:
    """Return the layers with at least half of the peak strength, and their mean strength.

    If a short tent falls between two layers of a shallower model, return the nearest layer.
    """
    depth = max(1, n_layers - 1)
    strengths = part.strengths(n_layers)
    if not any(strengths):
        strengths[round(part.position * depth)] = part.weight
    layers = [i for i, strength in enumerate(strengths) if strength >= max(strengths) / 2]
    mean = sum(strengths[layer] for layer in layers) / len(layers)
    return ComponentParameters(layers[0] / depth, layers[-1] / depth, mean)


Sampled = Mapping[str, Any]


def warm_starts(
    edits: Sequence[WarmStartTrial], space: SearchSpace, most: int, *, required: bool
) -> list[Sampled]:
    """Return the parameters of the warm-start trials without duplicates.

    Args:
        edits: known edits, in the order in which to try them.
        space: search space of this search.
        most: largest number of warm starts, so that random trials remain for the sampler to learn
            from.
        required: whether the user requested these edits.

    Raises:
        StudyError: the edits are required, and this search can try none of them.
    """
    found: list[Sampled] = []
    complaints = []
    for edit in edits:
        try:
            sampled = to_sampler_params(edit, space)
        except StudyError as error:
            complaints.append(error)
            log.info("Skipped warm-start trial: %s", error)
            continue
        if sampled not in found:
            found.append(sampled)
    if required and complaints and not found:
        raise complaints[0]
    if len(found) > most:
        log.info("Using %d warm-start trials out of %d (n_startup_trials)", most, len(found))
    if found:
        log.info("Using %d warm-start trials", min(most, len(found)))
    return found[:most]


def next_warm_start(starts: Sequence[Sampled], tried: Sequence[Sampled]) -> Sampled | None:
    """Return the first warm start not yet tried by the study; None if all were tried.

    Args:
        starts: warm starts of the search.
        tried: sampled parameters of the study's trials, finished and in flight.
    """
    return next((s for s in starts if not any(s.items() <= t.items() for t in tried)), None)

"""Storage of a network's parameters in the files of its checkpoint.

transformers renames some tensors on loading and joins others: most checkpoints store each expert's
matrix separately, while the network has one parameter [experts, ...]. Saving reverses this. This
module performs the reversal on torch's `meta` device, where it takes no memory, and traces each
parameter through it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict


@dataclass(frozen=True)
class Origin:
    """Origin of a stored tensor.

    Attributes:
        parameters: names of the parameters from which it is computed.
        exact: whether it is one unchanged parameter, or one of the matrices stacked in it.
        expert: index of that matrix; None if it is the whole parameter.
    """

    parameters: frozenset[str]
    exact: bool
    expert: int | None = None

    @property
    def parameter(self) -> str | None:
        """The parameter that it contains, in whole or in part; None if it is not `exact`."""
        return next(iter(self.parameters)) if self.exact else None


def saved_parameters(network: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors saved by `save_pretrained`, by the network's own names."""
    state: dict[str, Tensor] = network.state_dict()
    for ignored in network._keys_to_ignore_on_save or ():
        state.pop(ignored, None)
    kept: dict[str, Tensor] = remove_tied_weights_from_state_dict(state, network)
    return kept


def as_stored(network: PreTrainedModel, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as written by `save_pretrained`, under the names of the loaded files.

    Args:
        network: network loaded from a checkpoint; otherwise its family's usual names are used.
        parameters: parameters by the network's names; of those combined into one file tensor, all
            or none.

    Raises:
        Exception: a transformers error if the names cannot be restored.
    """
    stored: dict[str, Tensor] = revert_weight_conversion(network, dict(parameters))
    return stored


def trace(network: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, Origin]]:
    """Return the stored tensors on the meta device, and the origin of each by its stored name.

    Tensors that `save_pretrained` slices from one tensor share its memory here as well.

    Raises:
        Exception: a transformers error if the names cannot be restored.
    """
    shadows = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in saved_parameters(network).items()
    }
    follow = _Follow(shadows)
    with follow:
        stored = as_stored(network, shadows)
    return stored, {name: follow.origin(tensor) for name, tensor in stored.items()}


def places(origins: Mapping[str, Origin]) -> dict[str, list[str]]:
    """Return the file tensors that contain each parameter unchanged, by the parameter's name.

    Returns:
        One name, or the names of all experts' matrices in order, whose concatenated values are the
        parameter's. Parameters stored in another form are omitted.
    """
    found: dict[str, dict[int | None, str]] = {}
    otherwise: set[str] = set()
    for name, origin in origins.items():
        if origin.parameter is None:
            otherwise |= origin.parameters
        else:
            found.setdefault(origin.parameter, {})[origin.expert] = name
    return {
        parameter: [parts[expert] for expert in _in_order(parts)]
        for parameter, parts in found.items()
        if parameter not in otherwise
    }


def storage_of(tensor: Tensor) -> int:
    """Return the identity of the memory shared by views, also on the meta device."""
    storage: Any = tensor.untyped_storage()
    return int(storage._cdata)


class _Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Track the source tensors of each newly computed tensor."""

    def __init__(self, known: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = known
        self._sources = {storage_of(tensor): frozenset([name]) for name, tensor in known.items()}
        self._alive: list[Tensor] = []  # keeps memory addresses unique

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        sources = frozenset[str]().union(*map(self._of, _tensors((args, given))))
        for made in _tensors(result):
            self._sources[storage_of(made)] = self._of(made) | sources
            self._alive.append(made)
        return result

    def origin(self, tensor: Tensor) -> Origin:
        sources = self._of(tensor)
        if len(sources) == 1:
            whole = self._known[next(iter(sources))]
            if storage_of(tensor) == storage_of(whole):
                return _part(tensor, whole, sources)
        return Origin(sources, exact=False)

    def _of(self, tensor: Tensor) -> frozenset[str]:
        return self._sources.get(storage_of(tensor), frozenset())


def _part(tensor: Tensor, whole: Tensor, sources: frozenset[str]) -> Origin:
    offset = int(tensor.storage_offset() - whole.storage_offset())
    if (tensor.shape, tensor.stride(), offset) == (whole.shape, whole.stride(), 0):
        return Origin(sources, exact=True)
    if (tensor.shape, tensor.stride()) == (whole.shape[1:], whole.stride()[1:]):
        expert, rest = divmod(offset, int(whole.stride(0)))
        return Origin(sources, exact=rest == 0, expert=expert)
    return Origin(sources, exact=False)


def _in_order(experts: Iterable[int | None]) -> list[int | None]:
    return sorted(experts, key=lambda expert: -1 if expert is None else expert)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]

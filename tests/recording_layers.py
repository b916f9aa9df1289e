"""Which layers of a network compute, whatever it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager

from heretic.model.loading import Model


@contextmanager
def computing_layers(model: Model) -> Iterator[list[int]]:
    """While it lasts, the index of each layer that computes is noted."""
    seen: list[int] = []
    handles = [
        layer.get_submodule("self_attn").register_forward_hook(lambda *_, i=i: seen.append(i))
        for i, layer in enumerate(model.get_layers())
    ]
    yield seen
    for handle in handles:
        handle.remove()

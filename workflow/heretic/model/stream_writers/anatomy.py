"""Writers of the residual stream, found by probing and verified rather than listed by name.

A candidate is any linear map inside a decoder layer whose output has the stream's width, or any
matrix of that width that is a standalone parameter, such as the stacked expert maps of a layer.
See `find_stream_writers` for how writers are distinguished from other candidates, and how it is
verified that they write and that nothing else does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from heretic.errors import ModelLoadError
from heretic.model.stream_writers.candidates import (
    Candidate,
    find_candidates,
    require_plain_product,
)
from heretic.model.stream_writers.components import ATTENTION, COMPONENTS, MLP
from heretic.model.stream_writers.identify import Search
from heretic.model.stream_writers.interventions import UNSUPPORTED, Interventions
from heretic.model.stream_writers.layers import find_layers, stream_width
from heretic.model.stream_writers.probe import Probe
from heretic.model.stream_writers.verify import Proof
from heretic.model.stream_writers.writer import StreamWriter

__all__ = ["Anatomy", "StreamWriter", "find_layers", "find_stream_writers"]


def find_writers(experiment: Interventions) -> list[StreamWriter]:
    """Return the candidates that write into the stream, with their components.

    Raises:
        ModelLoadError: something else writes too, or a candidate's output is changed on its way by
            more than a gain.
    """
    search = Search(experiment)
    search.find()
    mixing = Proof(experiment, search.found, search.adopted).mixing()
    biases = _biases([c for c in search.found if c.raw])
    writers = [c for c in experiment.candidates if c in search.found and not c.bias]
    for candidate in writers:
        require_plain_product(candidate)
    return [
        StreamWriter(
            layer=c.layer,
            component=ATTENTION if c in mixing else MLP,
            name=c.path,
            module=c.module,
            parameter=c.parameter,
            bias_parameter=biases.get(c) if c.raw else _bias_of(c.module),
            transposed=c.stream_dim == -1,
            gain=search.found[c].gain,
        )
        for c in writers
    ]


def _bias_of(module: nn.Module) -> str | None:
    return "bias" if getattr(module, "bias", None) is not None else None


def _biases(found: Sequence[Candidate]) -> dict[Candidate, str]:
    """Return the bias that belongs to each matrix of experts."""
    paired: dict[Candidate, str] = {}
    for bias in (candidate for candidate in found if candidate.bias):
        owners = [c for c in found if c.module is bias.module and not c.bias]
        named = [c for c in owners if bias.parameter.startswith(c.parameter)] or owners
        if len(named) != 1 or named[0] in paired:
            raise ModelLoadError(
                f"{bias.path} writes to the residual stream, but the matrix it belongs to cannot "
                f"be determined; {UNSUPPORTED}"
            )
        paired[named[0]] = bias.parameter
    return paired


@dataclass(frozen=True)
class Anatomy:
    """The decoder layers and their writers, ordered by layer, then by appearance.

    Attributes:
        layers: decoder layer modules.
        writers: stream writers; includes the embeddings only after `with_embeddings`.
        d_model: number of stream channels.
        scales: constant by which each layer multiplies its stream, 1 in most architectures.
    """

    layers: tuple[nn.Module, ...]
    writers: tuple[StreamWriter, ...]
    d_model: int
    scales: tuple[float, ...]

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    def of_layer(self, layer: int) -> dict[str, list[StreamWriter]]:
        """Return the writers of one layer by component; hybrid layers may lack a component."""
        found: dict[str, list[StreamWriter]] = {component: [] for component in COMPONENTS}
        for writer in self.writers:
            if writer.layer == layer:
                found[writer.component].append(writer)
        return found


def find_stream_writers(network: PreTrainedModel) -> Anatomy:
    """Find the decoder layers and all writers, and verify that nothing else writes.

    Raises:
        ModelLoadError: there are no decoder layers, a layer is not explained by its linear maps, a
            map's output is changed on its way to the stream by more than a gain, something writes
            between two layers, a layer has no writer, a component is absent from all layers, or
            several maps share weights.
    """
    layers = find_layers(network)
    d_model = stream_width(network)
    candidates = find_candidates(network, layers, d_model)
    probe = Probe(network, layers)
    experiment = Interventions(probe, candidates, d_model)
    writers = find_writers(experiment)
    probe.require_handed_on()
    _require_complete(network, writers, len(layers))
    _require_own_weights(network, writers)
    return Anatomy(tuple(layers), tuple(writers), d_model, tuple(experiment.scales))


def _require_complete(
    network: PreTrainedModel, writers: Sequence[StreamWriter], n_layers: int
) -> None:
    """Require that every layer has a writer, and that every component exists."""
    architecture = type(network).__name__
    for layer in range(n_layers):
        if not any(writer.layer == layer for writer in writers):
            raise ModelLoadError(
                f"layer {layer} of {architecture} has no linear map that writes to the residual "
                "stream; this architecture is not supported"
            )
    for component in COMPONENTS:
        if not any(writer.component == component for writer in writers):
            names = list(dict.fromkeys(w.name for w in writers if w.layer == 0))
            raise ModelLoadError(
                f"no layer of {architecture} has an {component} that writes to the residual "
                f"stream; layer 0 has only {', '.join(names)}; this architecture is not supported"
            )


def _require_own_weights(network: PreTrainedModel, writers: Sequence[StreamWriter]) -> None:
    """Reject shared weights, which cannot be edited separately."""
    places: dict[int, list[str]] = {}
    identities: dict[str, int] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        # Offloaded parameters have no address, and tied ones remain a single parameter.
        identities[name] = id(parameter) if parameter.is_meta else parameter.data_ptr()
        places.setdefault(identities[name], []).append(name)
    tied = network.all_tied_weights_keys
    for writer in writers:
        name = writer.parameter_name
        shared = places.get(identities.get(name, 0), [name])
        shared += [other for pair in tied.items() if name in pair for other in pair]
        shared = list(dict.fromkeys(shared))
        if len(shared) > 1:
            raise ModelLoadError(
                f"{' and '.join(shared[:2])} of {type(network).__name__} share weights, which "
                "cannot be edited separately for each layer; this architecture is not supported"
            )

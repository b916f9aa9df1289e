"""Detection and verification of a network's writers.

1. With every candidate silent, a layer's output is its stream times one constant.
2. A map that writes plus and minus one into a layer whose other candidates are silent shows whether
   its output arrives, and by which factor per channel. The same holds for a matrix of experts, all
   of whose columns are replaced by one vector.
3. If a layer returns only its stream while the writers found so far are silent and everything else
   is active, nothing else writes.
4. With everything else active, a known output of each writer must arrive along the measured
   factors, so that no gate or norm turns a direction on its way.

In a list of experts in separate modules, those that receive none of the probe's tokens adopt the
proof of another expert of the same list, class and shapes. A matrix of all experts is verified as
one.
"""

from collections.abc import Sequence

from torch import nn

from heretic.errors import ModelLoadError
from heretic.model.candidates import Candidate, require_plain_product
from heretic.model.components import ATTENTION, MLP
from heretic.model.experiment import UNSUPPORTED, Experiment
from heretic.model.proof import Proof
from heretic.model.search import Search
from heretic.model.writer import StreamWriter


def find_writers(experiment: Experiment) -> list[StreamWriter]:
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

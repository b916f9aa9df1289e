"""A linear map that writes into the residual stream, and access to its weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heretic.model.devices import execution_device
from heretic.model.stream_writers.matrices import (
    is_offloaded,
    is_quantized,
    matrix_shape,
    read_matrix,
)


@dataclass(frozen=True, eq=False)
class StreamWriter:
    """A linear map, or a stack of experts' maps, whose output is added to the residual stream.

    The output arrives up to a factor per token: constants, the router's share and the size set by
    a norm do not turn a direction. A factor per channel from a norm or layer scale does: if `gain`
    is given, the stream moves along gain * (W x), and a direction d is kept out of the stream
    exactly if normalize(gain * d) is removed from W. Such a norm also resets the size of what
    arrives: a strength other than 1 weakens or reflects the direction relative to the rest of the
    output, not in absolute terms, and restored norms of W have an effect only where they change
    the relation between channels or experts.

    Attributes:
        layer: index of its decoder layer, from 0; -1 for the embeddings.
        component: `attn.o_proj` if it mixes positions, `mlp.down_proj` otherwise, `embed` for the
            embeddings, which are a map of one-hot vectors.
        name: dotted path of the module in the network, or of the parameter if the weights of all
            experts are stacked in one.
        module: owner of the parameters.
        parameter: name of the matrix in `module`.
        bias_parameter: name of the bias in `module`, or None.
        transposed: whether the matrix is stored as [..., d_in, d_model].
        gain: factors [d_model] between its output and the stream, float32 on the CPU, or None if
            they are all equal.
    """

    layer: int
    component: str
    name: str
    module: nn.Module
    parameter: str = "weight"
    bias_parameter: str | None = None
    transposed: bool = False
    gain: Tensor | None = None

    @property
    def parameter_name(self) -> str:
        """Name of the matrix among the network's parameters."""
        return self.name if self.is_raw else f"{self.name}.{self.parameter}"

    @property
    def bias_name(self) -> str | None:
        """Name of the bias among the network's parameters, or None."""
        if self.bias_parameter is None:
            return None
        owner = self.parameter_name.removesuffix(self.parameter)
        return f"{owner}{self.bias_parameter}"

    @property
    def is_raw(self) -> bool:
        """Return whether `name` is that of a parameter without a module of its own."""
        return self.name.rpartition(".")[2] == self.parameter

    @property
    def editable(self) -> bool:
        """Return whether the matrix can be overwritten: it is neither quantized nor offloaded."""
        quantized = is_quantized(self.module, self.parameter)
        return not quantized and not self.offloaded

    @property
    def offloaded(self) -> bool:
        """Return whether the matrix is stored elsewhere until it is needed."""
        return is_offloaded(self.module, self.parameter)

    @property
    def device(self) -> torch.device:
        """Device of its computation."""
        return execution_device(self.module)

    @property
    def shape(self) -> torch.Size:
        """Shape of the matrix: (d_model, d_in), or (experts, d_model, d_in); quantized or not."""
        *experts, rows, columns = matrix_shape(self.module, self.parameter)
        return torch.Size((*experts, *((columns, rows) if self.transposed else (rows, columns))))

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix [d_model, d_in]: `weight` or, if quantized, a new tensor in `dtype`.

        Raises:
            ModelLoadError: the matrix is offloaded.
        """
        matrix = read_matrix(self.module, self.parameter, dtype)
        return matrix.mT if self.transposed else matrix

    @property
    def weight(self) -> Tensor:
        """The matrix [d_model, d_in], or [experts, d_model, d_in]; writing into it edits it.

        Only available for `editable` writers.
        """
        weight: Tensor = getattr(self.module, self.parameter).data
        return weight.mT if self.transposed else weight

    @property
    def bias(self) -> Tensor | None:
        """The bias [d_model], or [experts, d_model], or None."""
        if self.bias_parameter is None:
            return None
        bias: Tensor | None = getattr(self.module, self.bias_parameter)
        return None if bias is None else bias.data

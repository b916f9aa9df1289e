"""Token embeddings as an additional stream writer, for edits that include them.

Row v of the matrix E [vocabulary, d_model] is the vector that token v writes into the stream before
the first layer. Some architectures multiply all of it by a constant or add learned positions, which
turns no direction. A norm between the embeddings and the first layer would turn directions, and is
rejected.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heretic.errors import ModelLoadError
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import Anatomy
from heretic.model.stream_writers.components import BEFORE_LAYERS, EMBEDDINGS
from heretic.model.stream_writers.gains import HALF_TOLERANCE, TOLERANCE
from heretic.model.stream_writers.layers import few_tokens
from heretic.model.stream_writers.matrices import EDITABLE
from heretic.model.stream_writers.probe import TOKENS, stream_of
from heretic.model.stream_writers.writer import StreamWriter

INSTEAD = "set ablate_embeddings=false"


def with_embeddings(model: Model) -> Model:
    """Return the same model, with its embeddings as the first writer of its anatomy.

    Raises:
        ModelLoadError: the output head or another module uses the same matrix, or the first layer's
            input is not the embeddings' output up to a constant.
    """
    anatomy = model.anatomy
    if any(writer.component == EMBEDDINGS for writer in anatomy.writers):
        return model
    writer = embedding_writer(model.network, anatomy)
    return replace(model, anatomy=replace(anatomy, writers=(writer, *anatomy.writers)))


def embedding_writer(network: PreTrainedModel, anatomy: Anatomy) -> StreamWriter:
    """Return the token embeddings of a network as a stream writer [d_model, vocabulary].

    Raises:
        ModelLoadError: as `with_embeddings`.
    """
    module, path = _embeddings(network)
    _require_one_matrix(module, path, anatomy.d_model)
    require_untied(network)
    _require_written(network, anatomy, module, path)
    return StreamWriter(BEFORE_LAYERS, EMBEDDINGS, path, module, transposed=True)


def _embeddings(network: PreTrainedModel) -> tuple[Any, str]:
    """Return the embedding module and its path."""
    module: Any = network.get_input_embeddings()
    return module, next(path for path, other in network.named_modules() if other is module)


def _are_one(one: Tensor, other: Tensor) -> bool:
    return one is other or (not one.is_meta and one.data_ptr() == other.data_ptr())


def _require_one_matrix(module: nn.Module, path: str, d_model: int) -> None:
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    if len(parameters) != 1 or weight is None or weight.dtype not in EDITABLE:
        raise ModelLoadError(
            f"the embeddings {path} are not a single unquantized matrix, so an edit would be "
            f"partial; {INSTEAD}"
        )
    if weight.is_meta:
        raise ModelLoadError(
            f"the embeddings {path} are offloaded; raise max_memory of a GPU, or {INSTEAD}"
        )
    if weight.dim() != 2 or weight.shape[1] != d_model:
        raise ModelLoadError(
            f"the embeddings {path} have shape {tuple(weight.shape)}, not the stream's {d_model} "
            f"channels; {INSTEAD}"
        )


def require_untied(network: PreTrainedModel) -> None:
    """Reject a matrix with uses other than embedding, for which an edit would have side effects.

    The network may be without weights.

    Raises:
        ModelLoadError: the output head or another module uses the embedding matrix.
    """
    module, path = _embeddings(network)
    shared = [
        name
        for name, parameter in network.named_parameters(remove_duplicate=False)
        if _are_one(parameter, module.weight) and name != f"{path}.weight"
    ]
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None and network.config.get_text_config().tie_word_embeddings:
        shared.append("the output head")
    if shared:
        raise ModelLoadError(
            f"the embeddings {path} of {type(network).__name__} share weights with {shared[0]} "
            f"(tie_word_embeddings), so editing them would also change the output logits; {INSTEAD}"
        )


def _require_written(
    network: PreTrainedModel, anatomy: Anatomy, module: nn.Module, path: str
) -> None:
    """Verify that the matrix's rows arrive at the first layer, times one constant."""
    rows = module.get_parameter("weight")[few_tokens(network, TOKENS)["input_ids"]].float().cpu()
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    # Rows of two sizes, which a norm would equalize.
    made = rows.std() * (1 + torch.arange(TOKENS) % 2)[:, None] * noise
    put_out, _ = _pass(network, anatomy, module, None)
    _, nothing = _pass(network, anatomy, module, torch.zeros_like(made))
    _, something = _pass(network, anatomy, module, made)
    dtype = module.get_parameter("weight").dtype
    if not (_is_multiple(put_out, rows, dtype) and _is_multiple(something - nothing, made, dtype)):
        raise ModelLoadError(
            f"the output of the embeddings {path} of {type(network).__name__} passes through a "
            "norm or another data-dependent step before the first layer, so projecting their rows "
            f"would not remove the direction; {INSTEAD}"
        )


def _pass(
    network: PreTrainedModel, anatomy: Anatomy, module: nn.Module, made: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the output of the embeddings (or `made`, if given) and the input of the first layer.

    Both are float32 tensors on the CPU.
    """
    seen: dict[str, Tensor] = {}

    def overwrite(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen["out"] = output.float().cpu()
        return output if made is None else made.to(output)

    def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen["stream"] = stream_of(args, kwargs).float().cpu()

    handles = [
        module.register_forward_hook(overwrite),
        anatomy.layers[0].register_forward_pre_hook(keep, with_kwargs=True),
    ]
    try:
        with torch.inference_mode():
            network(**few_tokens(network, TOKENS))
    finally:
        for handle in handles:
            handle.remove()
    return seen["out"], seen["stream"]


def _is_multiple(found: Tensor, given: Tensor, dtype: torch.dtype) -> bool:
    """Return whether a tensor is a constant times another of the same shape, up to rounding."""
    if found.shape != given.shape:
        return False
    factor = (found * given).sum() / given.square().sum()
    miss = (found - factor * given).norm()
    return bool(factor != 0 and miss <= TOLERANCE.get(dtype, HALF_TOLERANCE) * found.norm())

"""Transfer of an edit found on a quantized model to the full-precision network.

A quantized network may store a matrix transposed, or may be made from another checkpoint. Each
matrix is therefore looked up in the exported network, without loading its weights, and any
difference is rejected before writing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heretic.ablation.records import RecordedEdit, RecordedWriter
from heretic.errors import ExportError
from heretic.export.layout import empty_network
from heretic.export.record import Ablation
from heretic.model.stream_writers.components import EMBEDDINGS


def needs_fitting(facts: Mapping[str, Any], export_from: str | None) -> bool:
    """Return whether the exported network differs from the searched one.

    Args:
        facts: facts about the model, from `best.json`.
        export_from: value of the setting.
    """
    return export_from is not None or "quantization" in facts


def fit_to_original(
    ablation: Ablation,
    facts: Mapping[str, Any],
    source: Path,
    dtype: str | None,
    *,
    trust_remote_code: bool,
) -> Ablation:
    """Return the same edit of the full-precision network.

    Args:
        ablation: edit as found by the search.
        facts: facts about the searched model: `architecture`, `layers`, `d_model`, and the
            `writers` with their `shapes`.
        source: folder of the full-precision model.
        dtype: data type of the saved weights if it differs from the search; `auto` is the source's
            own.
        trust_remote_code: whether the source's own code may be executed.

    Raises:
        ExportError: the source is a different model from the searched one.
    """
    wanted = dtype or ablation.dtype
    network = empty_network(source, wanted, trust_remote_code=trust_remote_code)
    _require_alike(network, facts, source)
    shapes = _shapes(facts)
    edits = tuple(_fitted(edit, network, shapes, source) for edit in ablation.edits)
    own = str(network.dtype).removeprefix("torch.")
    return replace(ablation, edits=edits, dtype=own if wanted == "auto" else wanted)


def _require_alike(network: PreTrainedModel, facts: Mapping[str, Any], source: Path) -> None:
    config = network.config.get_text_config(decoder=True)
    found = (type(network).__name__, config.num_hidden_layers, config.hidden_size)
    wanted = (facts["architecture"], facts["layers"], facts["d_model"])
    if found != wanted:
        raise ExportError(
            f"{source} holds a {found[0]} of {found[1]} layers and {found[2]} channels, but a "
            f"{wanted[0]} of {wanted[1]} and {wanted[2]} was searched; set export_from to its "
            "original"
        )


def _shapes(facts: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Return the shape of each parameter's matrix, stream dimension first."""
    names = [RecordedWriter.from_dict(writer).parameter_name for writer in facts["writers"]]
    return dict(zip(names, facts["shapes"], strict=True))


def _fitted(
    edit: RecordedEdit,
    network: PreTrainedModel,
    shapes: Mapping[str, Sequence[int]],
    source: Path,
) -> RecordedEdit:
    writer, parameters = edit.writer, dict(network.named_parameters(remove_duplicate=False))
    name = writer.parameter_name
    matrix, bias = parameters.get(name), parameters.get(writer.bias_name or "")
    owner = network.get_submodule(name.rpartition(".")[0]) if matrix is not None else None
    is_map = writer.parameter is None and writer.component != EMBEDDINGS
    transposed = isinstance(owner, Conv1D) if is_map else writer.transposed
    has_bias = getattr(owner, "bias", None) is not None if is_map else bias is not None
    if matrix is None or _upright(matrix, transposed) != list(shapes[name]):
        found = "no such matrix" if matrix is None else f"{_upright(matrix, transposed)}"
        raise ExportError(
            f"{name} had the shape {list(shapes[name])} in the search, but {source} has {found}; "
            "set export_from to the original of the searched model"
        )
    if has_bias != writer.bias:
        raise ExportError(
            f"{name} {'has' if writer.bias else 'has no'} bias in the searched model, unlike in "
            f"{source}; set export_from to the original of the searched model"
        )
    return replace(edit, writer=replace(writer, transposed=transposed))


def _upright(matrix: Tensor, transposed: bool) -> list[int]:
    return list((matrix.mT if transposed else matrix).shape)

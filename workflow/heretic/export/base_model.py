"""Base model of a record: its location and its compatibility with the recorded edit."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from heretic.demo.folder import is_demo_folder
from heretic.errors import ExportError, ModelLoadError, one_line
from heretic.export.layout import empty_network
from heretic.export.record import Ablation
from heretic.export.record_file import Source
from heretic.model.checkpoint import locate, source_facts
from heretic.model.quantization import NONE, editable_form
from heretic.model.stream_writers.components import BEFORE_LAYERS
from heretic.model.stream_writers.layers import stream_width, text_config
from heretic.settings.prompt_sources import DEMO

RESULTS = Path("results")


def find_base_model(
    source: Source, record: Path, base_model: str | None
) -> tuple[Path, str, str | None]:
    """Return the folder, the name and the revision of a record's base model.

    Args:
        source: source given in the record.
        record: path of the record; the demo model is searched for in its parent folders.
        base_model: current location of the base model, if it differs from the record.

    Raises:
        ExportError: the weights are not those that were edited.
        ModelLoadError: the base model cannot be found.
    """
    revision = source.revision
    if base_model is not None:
        model, revision = base_model, None
    elif source.model == DEMO:
        # `results/demo/model/ablation.json` of a run, `results/demo/picks/P/model/...` of a pick.
        around = [*record.resolve().parents, RESULTS.resolve()]
        model, revision = str(edited_demo_model(around, source.sha256)), None
    else:
        model = source.model
    try:
        folder = locate(model, revision)
        found = source_facts(model, revision, folder)["sha256"]
    except (OSError, RuntimeError, ValueError) as error:  # invalid as a path of a folder
        raise ModelLoadError(
            f"cannot read the base model {model}: {one_line(error)}; specify its folder with "
            "--base-model"
        ) from error
    if found != source.sha256:
        raise ExportError(
            f"the weights of {model} differ from the ones that were edited (sha256 "
            f"{source.sha256}); specify the base model at the right revision"
        )
    return folder, model, revision


def loading_options(
    ablation: Ablation, folder: Path, model: str, revision: str | None
) -> dict[str, Any]:
    """Return the settings with which a record's base model is loaded, in full precision.

    Args:
        ablation: recorded edit.
        folder: folder of the base model.
        model: its hub id or folder.
        revision: revision of a hub model.
    """
    return {
        "model": model,
        "model_revision": revision,
        "dtype": ablation.dtype,
        "chat_template": ablation.chat_template,
        "template_date": ablation.template_date,
        "quantization": editable_form(NONE, folder / "config.json"),
    }


def edited_demo_model(places: Iterable[Path], sha256: str) -> Path:
    """Return the folder of the demo model that was edited; there may be several demo models.

    Args:
        places: folders that may hold demo models, such as `results`.
        sha256: hash of its weights, from the record of the edited model.

    Raises:
        ModelLoadError: the model is in none of them.
    """
    searched = list(places)
    for found in _demo_folders(searched):
        if source_facts(DEMO, None, found)["sha256"] == sha256:
            return found
    there = next((place for place in searched if place.name == RESULTS.name), searched[-1])
    raise ModelLoadError(
        f"the demo model that was edited is not in {there}; rerun the workflow with the options of "
        "that run to train it, or specify its folder with --base-model"
    )


def require_fit(ablation: Ablation, source: Path, *, trust_remote_code: bool) -> None:
    """Reject an edit of another network, without reading weights.

    Raises:
        ExportError: the network in `source` lacks a layer, matrix or bias, or has another width.
    """
    network = empty_network(source, ablation.dtype, trust_remote_code=trust_remote_code)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    width, layers = stream_width(network), int(text_config(network).num_hidden_layers)
    for edit in ablation.edits:
        writer = edit.writer
        known = writer.layer == BEFORE_LAYERS or (
            writer.layer < layers and str(writer.layer) in writer.name.split(".")
        )
        matrix = parameters.get(writer.parameter_name)
        bias = parameters.get(writer.bias_name or "")
        fits = (
            known
            and edit.directions.shape[1] == width
            and matrix is not None
            and _rows(matrix, writer.transposed) == (writer.experts, width)
            and (not writer.bias or (bias is not None and bias.shape[-1] == width))
        )
        if not fits:
            raise ExportError(
                f"{writer.parameter_name} of layer {writer.layer}, which the record edits along "
                f"directions of {edit.directions.shape[1]} channels, does not fit the base model "
                f"with {layers} layers and {width} channels; does the record belong to another "
                "model?"
            )


def _demo_folders(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        try:
            inside = sorted(path for path in place.iterdir() if is_demo_folder(path.name))
        except OSError:  # a folder above the results may be inaccessible
            continue
        yield from (path for path in inside if path.is_dir())


def _rows(matrix: Tensor, transposed: bool) -> tuple[int | None, int | None]:
    """Return the number of matrices in a parameter (None for a single one) and their rows."""
    if matrix.ndim not in (2, 3):
        return None, None
    experts = matrix.shape[0] if matrix.ndim == 3 else None
    return experts, matrix.shape[-1 if transposed else -2]

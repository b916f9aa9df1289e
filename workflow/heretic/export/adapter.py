"""Export of an edit as a LoRA adapter that PEFT loads into the base model.

W' - W = -D^T diag(s) V has rank k for the plain edit along k directions, so the pair A = V [k,
d_in] and B = -D^T diag(s) [d_model, k] represents it exactly. Restored norms multiply the rows or
columns of W, which no low-rank adapter can represent.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from heretic.ablation.records import check_adapter
from heretic.console import log
from heretic.errors import ExportError, one_line
from heretic.export.adapter_config import check_config
from heretic.export.checkpoint import Checkpoint
from heretic.export.edited_tensors import projection_of
from heretic.export.folder import write_record, writing
from heretic.export.formats import ADAPTER_CONFIG, check_form, is_adapter
from heretic.export.layout import Layout, empty_network, lay_out
from heretic.export.record import Ablation
from heretic.export.record_file import RECORD, read_record
from heretic.model.checkpoint import check_model, on_the_hub, snapshot_repo
from heretic.model.loading import Model, load_baseline, load_model
from heretic.model.own_files import check_links
from heretic.model.parameter_layout import places
from heretic.model.quantization import (
    AS_IS,
    DEQUANTIZE,
    NONE,
    editable_form,
    stored_quantization,
)

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Errors of PEFT caused by malformed configurations and tensors.
ADAPTER_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError, SafetensorError),
)


def save_adapter(
    ablation: Ablation,
    source: Path,
    folder: Path,
    record: Mapping[str, Any],
    *,
    base_model: str,
    revision: str | None,
    trust_remote_code: bool,
) -> None:
    """Write the adapter atomically, reading only the edited matrices of the base model.

    Args:
        ablation: edit with `norm_preservation` `none`.
        source: folder of the base model.
        folder: target folder, replaced if it exists.
        record: values for `ablation.json`.
        base_model: hub id or folder of the base model. For a folder in the hub's cache, the adapter
            names the hub id and the commit instead.
        revision: revision of a hub model.
        trust_remote_code: whether the base model's own code may be executed.

    Raises:
        ExportError: the edit is not of low rank, changes nothing, or changes matrices or biases
            that an adapter cannot represent, or the disk is full.
    """
    check_form(ablation.export, ablation.norm_preservation)
    check_adapter(ablation.export, [edit.writer for edit in ablation.edits])
    if not ablation.edits:
        raise ExportError(
            "the selected trial edits nothing, so there is no adapter; select another"
        )
    network = empty_network(source, ablation.dtype, trust_remote_code=trust_remote_code)
    layout = lay_out(network, ablation.max_shard_size)
    tensors = _tensors(ablation, Checkpoint(source, network.base_model_prefix), layout)
    repo = None if on_the_hub(base_model) else snapshot_repo(source)
    if repo is not None:
        base_model, revision = repo, source.name
    elif not on_the_hub(base_model):
        log.warning(
            "The adapter names the base model %s, which other machines cannot find; before you "
            "share it, export it from the model's hub id",
            base_model,
        )
    config = _config(ablation, base_model, revision)
    with writing(folder) as beside:
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        (beside / ADAPTER_CONFIG).write_text(config, encoding="utf-8")
        written = load_file(beside / WEIGHTS)
        if any(not written[name].equal(tensor) for name, tensor in tensors.items()):
            raise ExportError(f"{WEIGHTS} on disk differs from memory; check the disk")
        write_record(beside, record)
    log.info("Verified: an adapter of %d matrices", len(ablation.edits))


def load_edited(folder: Path, options: Mapping[str, Any], base_model: str) -> Model:
    """Load a saved folder: a complete model, or an adapter applied to its base model.

    It is quantized like the original for `bnb_4bit` and `bnb_8bit`. The edit of a quantized
    checkpoint is loaded in full precision, or like the original if it is saved quantized.

    Args:
        folder: folder of the saved model.
        options: settings of `load_model`.
        base_model: hub id or folder of the model before the edit.

    Raises:
        ModelLoadError, ExportError: the folder cannot be loaded, or does not fit its base model.
    """
    chosen = options.get("quantization", NONE)
    if is_adapter(folder):
        source = read_record(folder / RECORD)[1].source
        if source.model != options["model"]:  # the exported model is not the searched one
            base_model, options = source.model, {**options, "model_revision": source.revision}
        config = check_model(base_model, options.get("model_revision"))
        form = editable_form(chosen, config)
        base = {**options, "model": base_model, "quantization": form}
        return attach_adapter(load_model(**base), folder)
    if chosen in (AS_IS, DEQUANTIZE):
        if stored_quantization(folder / "config.json") is not None:
            options = {**options, "model": str(folder), "model_revision": None}
            return load_baseline(**options)
        options = {**options, "quantization": NONE}
    return load_model(**{**options, "model": str(folder), "model_revision": None})


def attach_adapter(model: Model, folder: Path) -> Model:
    """Apply the adapter in `folder` to the base model `model` in place, and return it.

    Raises:
        ExportError: the adapter does not fit the model, or has no safetensors file.
        ModelLoadError: a file of the adapter is a link that points outside the folder.
    """
    from peft import PeftConfig, PeftModel

    if folder / WEIGHTS not in check_links(str(folder), folder):  # PEFT would load a pickle
        raise ExportError(
            f"the adapter in {folder} has no {WEIGHTS}; save the adapter with PEFT in the "
            "safetensors format"
        )
    check_config(folder, (name for name, _ in model.network.named_modules()))
    try:
        with warnings.catch_warnings(record=True) as remarks:
            if PeftConfig.from_pretrained(str(folder)).is_prompt_learning:
                raise ExportError(
                    f"the adapter in {folder} adds tokens to prompts instead of editing weights; "
                    "only weight adapters, such as LoRA, can be evaluated"
                )
            # Modifies the network's modules in place; the returned wrapper is not needed.
            wrapper = PeftModel.from_pretrained(model.network, str(folder), use_safetensors=True)
        stored = _stored_names(folder)
    except ADAPTER_ERRORS as error:
        raise ExportError(
            f"the adapter in {folder} does not fit the model: {one_line(error)}"
        ) from error
    for remark in remarks:
        log.info("PEFT on the adapter in %s: %s", folder, one_line(remark.message))
    unused = stored - {name.replace(".default.", ".") for name in wrapper.state_dict()}
    if unused:
        raise ExportError(
            f"the adapter in {folder} does not fit the model, which has no module for "
            f"{min(unused)}; specify its own base model"
        )
    return model


def _stored_names(folder: Path) -> set[str]:
    """Return the names of an adapter's tensors, as PEFT ignores unmatched ones."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return set(file.keys())


def _tensors(ablation: Ablation, checkpoint: Checkpoint, layout: Layout) -> dict[str, Tensor]:
    """Return A and B of each matrix in float32; half precision would lose small differences."""
    matrices, files = ablation.matrix_edits(), places(layout.origins)
    found: dict[str, Tensor] = {}
    for edit in ablation.edits:
        writer, units = edit.writer, edit.directions.double()
        with _parameter(writer.parameter_name, checkpoint, files) as weight:
            along = projection_of(weight, matrices[writer.parameter_name], ablation.torch_dtype)
        name = f"{PREFIX}{writer.name}"
        found[f"{name}.lora_A.weight"] = along.float()
        scaled = units * -units.new_tensor(edit.strengths)[:, None]
        found[f"{name}.lora_B.weight"] = scaled.T.float().contiguous()
        if writer.bias_name is not None:
            with _parameter(writer.bias_name, checkpoint, files) as stored:
                bias = stored.to("cpu", ablation.torch_dtype).double()
            parts = [row * (unit @ bias) for row, unit in zip(scaled, units, strict=True)]
            found[f"{name}.lora_B.bias"] = torch.stack(parts).sum(0).float()
    return found


def _parameter(
    name: str, checkpoint: Checkpoint, files: Mapping[str, list[str]]
) -> AbstractContextManager[Tensor]:
    """Return a parameter of the network, which may have a different name in the files."""
    stored = files.get(name, ())
    if len(stored) != 1:
        raise ExportError(
            f"{checkpoint.folder} does not hold {name} in the form of the loaded network, which an "
            "adapter requires; set export=merged"
        )
    return checkpoint.tensor(stored[0])


def _config(ablation: Ablation, base_model: str, revision: str | None) -> str:
    from peft import LoraConfig

    rank = max(len(edit.directions) for edit in ablation.edits)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        revision=revision,
        r=rank,
        lora_alpha=rank,  # PEFT multiplies by alpha / r
        lora_bias=any(edit.writer.bias for edit in ablation.edits),
        target_modules=[edit.writer.name for edit in ablation.edits],
        fan_in_fan_out=any(edit.writer.transposed for edit in ablation.edits),
        inference_mode=True,
    )
    fields: dict[str, Any] = config.to_dict()  # type: ignore[no-untyped-call]
    # The order of a set varies between processes, but the same edit must result in the same bytes.
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"

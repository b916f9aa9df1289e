"""Loading of a model from the hub or disk, and its interface for the workflow's phases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heretic.console import log
from heretic.errors import ModelLoadError, one_line
from heretic.model.auto_class import loader_name
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat, shown_beginning
from heretic.model.chat_loading import load_chat
from heretic.model.checkpoint import check_model, locate
from heretic.model.devices import execution_device
from heretic.model.inspection import inspect_folder
from heretic.model.network import NetworkOptions, SamplePrompt, load_network
from heretic.model.quantization import (
    DEQUANTIZE,
    NONE,
    check_checkpoint,
    check_package,
    released_form,
)
from heretic.model.stream_writers.anatomy import Anatomy, find_stream_writers
from heretic.model.stream_writers.components import COMPONENTS
from heretic.model.template import read_template
from heretic.model.template_date import day_of
from heretic.prompts.prompt import Prompt
from heretic.settings.types import AUTO_PREFIX

GREETING = Prompt("Hello")


@dataclass
class Model:
    """A loaded language model, alone or in a multimodal network, with anatomy and chat format.

    Attributes:
        network: the transformers model in evaluation mode.
        chat: tokenizer and chat template.
        anatomy: decoder layers and stream writers.
        folder: local folder of the checkpoint.
        batch_size: prompts per batch, shared by all phases of one process.
        compile: whether the decoding step is compiled.
        quantization: as the setting.
        damaged: reason why an edit of the weights failed midway, which makes the model unusable;
            None if the model is intact.
        fallback_dtype: data type chosen by `dtype: auto` because the checkpoint's own gives
            non-finite logits; otherwise None.
    """

    network: PreTrainedModel
    chat: ChatFormat
    anatomy: Anatomy
    folder: Path
    batch_size: BatchSize = field(default_factory=lambda: BatchSize(1))
    compile: bool = False
    quantization: str = NONE
    damaged: str | None = None
    fallback_dtype: str | None = None

    @property
    def loaded_dtype(self) -> torch.dtype:
        """Data type of the weights in memory."""
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        """Device of the embeddings, which also receives the inputs."""
        embeddings: Any = self.network.get_input_embeddings()
        return execution_device(embeddings)

    def get_layers(self) -> tuple[nn.Module, ...]:
        """Return the decoder layers."""
        return self.anatomy.layers

    def get_layer_matrices(self, layer: int) -> dict[str, list[Tensor]]:
        """Return the matrices [d_model, d_in] with which `layer` writes, by component."""
        writers = self.anatomy.of_layer(layer)
        return {component: [w.weight for w in writers[component]] for component in COMPONENTS}


def load_model(
    model: str,
    *,
    model_revision: str | None,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    max_batch_size: int,
    compile: bool,
    device_map: str | None,
    max_memory: Mapping[str, str] | None,
    attn_implementation: str | None,
    chat_template: str | None,
    template_date: str | None,
    response_prefix: str = AUTO_PREFIX,
    quantization: str = NONE,
    max_prompt_length: int | None = None,
    chat: ChatFormat | None = None,
    test_prompts: Sequence[Prompt] = (),
    **_: Any,
) -> Model:
    """Load a model and verify its residual-stream writers.

    The arguments are settings of the same names; other settings are ignored, so that a phase can
    pass its whole subset. With `response_prefix: auto`, the prefix stays empty here, since
    `find_response_prefix` needs a loaded model. If `chat` is given, which must come from
    `load_chat_of` with the same settings, it is not loaded again. `template_date` must be the
    run's date, or None if its template prints no date; `auto` is today's date. The data type must
    give finite logits for a greeting and for `test_prompts`.

    Raises:
        ModelLoadError: the model is not found, does not generate text, has no chat template, runs
            out of memory, does not generate in any data type, is not stored in the form expected
            by `quantization`, or has an architecture that cannot be edited as a whole.
        SettingsError: the quantization package is missing, or `template_date` is not a date.
    """
    check_package(quantization)
    folder = locate(model, model_revision)
    inspect_folder(model, folder, trust_remote_code=trust_remote_code)
    check_checkpoint(model, folder / "config.json", quantization)
    chosen = choose_device(device)
    options = NetworkOptions(
        dtype, chosen, device_map, max_memory, attn_implementation, trust_remote_code, quantization
    )
    if chat is None:
        chat = _chat_in(
            model,
            folder,
            chat_template,
            template_date,
            response_prefix,
            trust_remote_code,
            max_prompt_length,
        )
    prompts = [GREETING, *test_prompts]
    tests = [
        SamplePrompt(ids, shown_beginning(prompt))
        for ids, prompt in zip(chat.encode(prompts), prompts, strict=True)
    ]
    loaded = load_network(model, folder, tests, options)
    network = loaded.network
    anatomy = find_stream_writers(network)
    log.info(
        "Loaded %s: %s, %.1f M parameters, %s on %s, %d layers, %d stream writers",
        model,
        type(network).__name__,
        network.num_parameters() / 1e6,
        network.dtype,
        chosen if device_map is None else f"the devices of device_map={device_map}",
        anatomy.n_layers,
        len(anatomy.writers),
    )
    batch_size = BatchSize(max_batch_size)
    return Model(
        network,
        chat,
        anatomy,
        folder,
        batch_size,
        compile,
        quantization=quantization,
        fallback_dtype=loaded.fallback_dtype,
    )


def load_baseline(**options: Any) -> Model:
    """Load the model before the edit for measurements, with the arguments of `load_model`.

    A checkpoint that was dequantized for the search is loaded as released if transformers runs it
    in that form on this machine.

    Raises:
        ModelLoadError, SettingsError: as `load_model`.
    """
    if options["quantization"] == DEQUANTIZE:
        config = check_model(options["model"], options["model_revision"])
        device = choose_device(options["device"]).type
        options["quantization"] = released_form(options, config, device)
    return load_model(**options)


def load_chat_of(
    model: str,
    *,
    model_revision: str | None,
    chat_template: str | None,
    template_date: str | None,
    response_prefix: str = AUTO_PREFIX,
    trust_remote_code: bool,
    max_prompt_length: int | None = None,
    **_: Any,
) -> ChatFormat:
    """Load a model's chat format without its weights; the arguments are those of `load_model`.

    Raises:
        ModelLoadError: as `load_model`.
        SettingsError: `template_date` is not a date.
    """
    folder = locate(model, model_revision)
    inspect_folder(model, folder, trust_remote_code=trust_remote_code)
    return _chat_in(
        model,
        folder,
        chat_template,
        template_date,
        response_prefix,
        trust_remote_code,
        max_prompt_length,
    )


def _chat_in(
    model: str,
    folder: Path,
    chat_template: str | None,
    template_date: str | None,
    response_prefix: str,
    trust_remote_code: bool,
    max_prompt_length: int | None,
) -> ChatFormat:
    return load_chat(
        model,
        folder,
        read_template(chat_template),
        "" if response_prefix == AUTO_PREFIX else response_prefix,
        day_of(template_date),
        trust_remote_code=trust_remote_code,
        max_prompt_length=max_prompt_length,
    )


def choose_device(device: str) -> torch.device:
    """Return the device of a given name, or this machine's accelerator for `auto`.

    Raises:
        ModelLoadError: the device is unknown to torch.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise ModelLoadError(
            f"device={device} is not available ({reason}); use device=auto"
        ) from error


def model_facts(model: Model) -> Mapping[str, Any]:
    """Return the facts about a model for the report."""
    facts = {
        "architecture": type(model.network).__name__,
        "loader": loader_name(type(model.network).__name__),
        "parameters": model.network.num_parameters(),
        "dtype": str(model.loaded_dtype).removeprefix("torch."),
        "layers": model.anatomy.n_layers,
        "d_model": model.anatomy.d_model,
    }
    quantized = {"quantization": model.quantization} if model.quantization != NONE else {}
    chat = model.chat
    dated = {"template_date": chat.template_date.isoformat()} if chat.prints_date else {}
    return {**facts, **quantized, **dated}

"""Network of a checkpoint, in a working data type and on the configured devices.

float16 overflows in some models and for some prompts only, and bfloat16 is missing on some devices.
As the checkpoint reveals neither, test answers decide.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from heretic.console import log
from heretic.errors import ModelLoadError, one_line
from heretic.model.batching import is_out_of_memory
from heretic.model.checkpoint_loading import load_checkpoint
from heretic.model.devices import execution_device
from heretic.model.generation import generating_by, stored_generation
from heretic.model.parameter_count import require_parameters
from heretic.model.quantization import DEQUANTIZE, NONE, loading_arguments
from heretic.model.third_party import quiet_transformers, reported_as

AUTO = "auto"
# Tried in this order after the checkpoint's own data type.
FALLBACKS = ("bfloat16", "float16", "float32")
TEST_TOKENS = 2


@dataclass(frozen=True)
class NetworkOptions:
    """Options for loading a network; fields as the settings of the same names.

    Attributes:
        device: device of the whole network, unless `device_map` is given.
    """

    dtype: str
    device: torch.device
    device_map: str | None = None
    max_memory: Mapping[str, str] | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    quantization: str = NONE

    def arguments(self) -> dict[str, Any]:
        """Return arguments of `from_pretrained`, without the data type and the safety options."""
        given: dict[str, Any] = {}
        if self.attn_implementation is not None:
            given["attn_implementation"] = self.attn_implementation
        if self.device_map is not None:
            given["device_map"] = self.device_map
            if self.max_memory is not None:
                given["max_memory"] = {
                    int(name) if name.isdecimal() else name: size
                    for name, size in self.max_memory.items()
                }
        elif self.device.type != "cpu" or self.quantization not in (NONE, DEQUANTIZE):
            # Load directly onto the accelerator: a large model need not fit into main memory as
            # well, and quantized models would otherwise choose a device themselves.
            given["device_map"] = {"": str(self.device)}
        return given


@dataclass(frozen=True)
class SamplePrompt:
    """Prompt for which logits must be finite.

    Attributes:
        ids: its tokens.
        shown: its beginning, for messages.
    """

    ids: list[int]
    shown: str


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in a working data type.

    Attributes:
        network: the network.
        fallback_dtype: data type chosen by `dtype: auto` because the checkpoint's own does not
            work; None if it does, or if another value was given.
    """

    network: PreTrainedModel
    fallback_dtype: str | None


def load_network(
    model: str, folder: Path, test_prompts: Sequence[SamplePrompt], options: NetworkOptions
) -> LoadedNetwork:
    """Load the network in the first data type that yields finite logits.

    `dtype: auto` tries the checkpoint's own, then bfloat16, float16 and float32; any other value is
    either accepted or rejected. The choice does not depend on the order of the prompts.

    Args:
        model: name for messages.
        folder: folder of the checkpoint.
        test_prompts: prompts to answer.
        options: loading options.

    Raises:
        ModelLoadError: transformers cannot load the checkpoint, its configuration describes more
            parameters than it holds, tensors are missing, parts of the network do not fit, or no
            data type yields finite values.
    """
    require_parameters(model, folder, options.quantization, options.trust_remote_code)
    tried: list[str] = []
    for dtype in _candidates(options.dtype):
        if dtype in tried:
            continue
        network = _load(model, folder, dtype, options)
        name = str(network.dtype).removeprefix("torch.")
        tried.append(name)
        with _loading(model, options.device):
            complaint = _complaint(network, test_prompts)
        if complaint is None:
            if options.dtype == AUTO and len(test_prompts) > 1:
                log.info(
                    "dtype=auto: %s, %s, gives finite logits for all %d test prompts",
                    name,
                    "the checkpoint's own" if len(tried) == 1 else "after " + ", ".join(tried[:-1]),
                    len(test_prompts),
                )
            return LoadedNetwork(network, name if len(tried) > 1 else None)
        log.warning("%s does not work in %s: %s", model, name, complaint)
        del network
        gc.collect()
    raise ModelLoadError(
        f"{model} produces non-finite logits in {', '.join(tried)}; "
        + ("is the checkpoint corrupt?" if options.dtype == AUTO else "use dtype=auto")
    )


def _candidates(dtype: str) -> Iterator[str]:
    yield dtype
    if dtype == AUTO:
        yield from FALLBACKS


def _load(model: str, folder: Path, dtype: str, options: NetworkOptions) -> PreTrainedModel:
    with _loading(model, options.device):
        network, report = _from_pretrained(model, folder, dtype, options)
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise ModelLoadError(
            f"the checkpoint of {model} lacks {len(lacking)} tensors of {type(network).__name__} "
            f"({lacking[0]}, ...), which would be randomly initialized; is it complete, and a "
            "causal language model?"
        )
    away = [name for name, parameter in network.named_parameters() if parameter.is_meta]
    if away:
        log.warning(
            "%d tensors of %s (%s, ...) did not fit on the compute devices and were offloaded, "
            "which slows down every forward pass; raise max_memory, or set quantization=bnb_4bit",
            len(away),
            model,
            away[0],
        )
    found: PreTrainedModel = network.eval().requires_grad_(False)
    return found


def _from_pretrained(model: str, folder: Path, dtype: str, options: NetworkOptions) -> Any:
    try:
        return load_checkpoint(
            folder,
            dtype,
            dequantize=options.quantization == DEQUANTIZE,
            trust_remote_code=options.trust_remote_code,
            output_loading_info=True,
            generation_config=stored_generation(model, folder),
            **options.arguments(),
            **loading_arguments(options.quantization, dtype, folder),
        )
    except (ValueError, RuntimeError) as error:
        if "offload_folder" not in str(error):
            raise
        raise ModelLoadError(
            f"parts of {model} did not fit on the compute devices, and experts stored as one "
            "parameter cannot be offloaded; raise max_memory, or use more GPUs"
        ) from error


@contextmanager
def _loading(model: str, device: torch.device) -> Iterator[None]:
    """Report any error of torch and transformers while loading a checkpoint in one line."""
    with reported_as(ModelLoadError, f"cannot load {model}"), quiet_transformers():
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelLoadError(
                f"{model} does not fit on {device}; use a smaller dtype, device=cpu or a larger "
                "device"
            ) from error


def _complaint(network: Any, prompts: Sequence[SamplePrompt]) -> str | None:
    """Return the problem with the logits of short greedy answers, or None."""
    for prompt in prompts:
        complaint = _complaint_about(network, prompt)
        if complaint is not None:
            return complaint
    return None


def _complaint_about(network: Any, prompt: SamplePrompt) -> str | None:
    ids = torch.tensor([prompt.ids], device=execution_device(network.get_input_embeddings()))
    plain = GenerationConfig(do_sample=False, pad_token_id=0)  # type: ignore[no-untyped-call]
    try:
        with torch.inference_mode(), generating_by(network, plain):
            answer = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TEST_TOKENS,
                output_logits=True,
                return_dict_in_generate=True,
            )
    except RuntimeError as error:
        # The error of a device that lacks kernels for a data type.
        if is_out_of_memory(error):
            raise
        return one_line(error)
    logits = torch.stack(answer.logits)
    # Some models assign minus infinity to excluded tokens.
    if logits.isnan().any() or logits.isposinf().any():
        return f"its logits are not finite for the prompt {prompt.shown}"
    return None

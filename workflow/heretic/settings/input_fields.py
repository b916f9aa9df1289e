"""Settings of the model, of loading and compute, and of the prompt sets."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from heretic.settings.prompt_sources import DEMO, OptionalText, PromptSource, empty_to_none
from heretic.settings.types import (
    AUTO_DATE,
    AUTO_PREFIX,
    DEFAULT_FAMILY,
    DEFAULT_PLANTED,
    DemoFamily,
    MemoryLimits,
    PlantedName,
    TemplateDate,
    kind_of_prompt_setting,
    read_prompt_setting,
    setting,
)

MODEL_RULES = (
    "find_response_prefix",
    "extract_residuals",
    "extract_protected_residuals",
    "optimize",
    "score_finalists",
    "apply_best",
    "evaluate",
    "benchmark_original",
    "benchmark",
)
# The edited weights are written in full precision, regardless of how the model was measured.
MEASURING_RULES = tuple(rule for rule in MODEL_RULES if rule != "apply_best")


# Tagged, so that an error in a source is reported once instead of once per kind of value.
PromptSetting = Annotated[
    Annotated[PromptSource, Tag("source")]
    | Annotated[list[PromptSource], Field(min_length=1), Tag("sources")]
    | Annotated[bool, Tag("switch")],
    Discriminator(kind_of_prompt_setting),
    BeforeValidator(read_prompt_setting),
]


class InputFields(BaseModel):
    """Names, types, defaults and bounds, without cross-field validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        # `--config run_name=2024` arrives as a number.
        coerce_numbers_to_str=True,
    )

    # Model
    model: str | list[str] = setting(
        DEMO,
        "Model to edit: a hub id, a local folder, or `demo`, which the workflow trains "
        "itself. A list runs several models in one invocation.",
        *MODEL_RULES,
        "save",
    )
    model_revision: OptionalText = setting(
        None, "Branch, tag or commit of a hub model; pin it to reproduce a run.", *MODEL_RULES
    )
    run_name: OptionalText = setting(
        None,
        "Folder under results/; defaults to a safe form of the model's name. Not allowed "
        "with several models.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    seed: int = setting(
        0,
        "Seed of the demo model, the search, the random controls and the bootstrap.",
        "train_demo_model",
        "load_prompts",
        "compute_directions",
        "optimize",
        "evaluate",
        ge=0,
        lt=2**31,
    )
    demo_family: DemoFamily = setting(
        DEFAULT_FAMILY,
        "Architecture of the demo model: a plain `llama`, `qwen3` with query and key norms, "
        "or `qwen3_moe`, a mixture of experts.",
        "train_demo_model",
    )
    demo_refusal_class: PlantedName = setting(
        DEFAULT_PLANTED,
        "Requests that the demo model refuses, which also determine the words of its prompt "
        "sets: a dish made of a material, such as glass soup, or a tool made of a fabric, "
        "such as a silk hammer.",
        "train_demo_model",
        "load_prompts",
    )
    demo_steps: int = setting(
        1300,
        "Optimizer steps for the demo model; fewer steps train faster and make refusals "
        "less precise.",
        "train_demo_model",
        ge=1,
    )

    # Loading and compute
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = setting(
        "auto",
        "Data type of the weights; `auto` uses the checkpoint's own, falling back to "
        "bfloat16, float16, then float32 if it gives non-finite logits for a sample of all prompt "
        "sets.",
        *MODEL_RULES,
    )
    quantization: Literal["none", "bnb_4bit", "bnb_8bit", "as_is", "dequantize"] = setting(
        "none",
        "Measure and search a quantized model: `bnb_4bit` (NF4) or `bnb_8bit` (LLM.int8), "
        "quantized by bitsandbytes on load; or an already quantized checkpoint `as_is`. "
        "`dequantize` converts a quantized checkpoint (MXFP4, block FP8, compressed-tensors, "
        "GPTQ, AWQ or bitsandbytes) to full precision on load. The export edits full "
        "precision, unless `export` is `quantized`.",
        *MEASURING_RULES,
    )
    device: str = setting(
        "auto", "Torch device; `auto` uses a GPU if one is available.", rounding=True
    )
    device_map: Annotated[
        Literal["auto", "balanced", "balanced_low_0", "sequential"] | None,
        BeforeValidator(empty_to_none),
    ] = setting(
        None,
        "Spread a model too large for one GPU over several, using accelerate; `device` is "
        "then ignored. Layers that do not fit are offloaded, which is slow.",
        rounding=True,
    )
    max_memory: MemoryLimits = setting(
        None,
        "Memory limit per device for `device_map`, such as `0=60GiB,1=60GiB`.",
        rounding=True,
    )
    attn_implementation: OptionalText = setting(
        None,
        "Attention implementation, such as `eager`, `sdpa` or `flash_attention_2`; empty "
        "lets transformers choose.",
        rounding=True,
    )
    threads: int = setting(
        0,
        "CPU threads used by torch; 0 uses all cores of the machine.",
        rounding=True,
        ge=0,
        le=4096,
    )
    trust_remote_code: bool = setting(
        False,
        "Run Python code shipped with a model repository; only for authors you trust.",
        runtime=True,
    )
    max_batch_size: int = setting(
        128,
        "Maximum number of prompts per batch; halved, for the rest of the run, when memory "
        "runs out.",
        rounding=True,
        ge=1,
    )
    max_prompt_length: int = setting(
        4096,
        "Maximum number of tokens per prompt, including the chat template; longer prompts "
        "are rejected before the model is loaded. The model's own context length always "
        "applies as well.",
        runtime=True,
        ge=1,
    )
    compile: bool = setting(
        False,
        "Compile the decoding step (torch.compile with a static KV cache): takes a minute "
        "or more at the start of a phase, then generates faster on a GPU; for models that "
        "support a static cache.",
        rounding=True,
    )
    cache_weights: Literal["true", "false", "auto"] = setting(
        "auto",
        "Keep original copies of the edited matrices in memory (true) or re-read them from "
        "disk after each trial (false, for models that fill the memory); `auto` decides by "
        "free memory.",
        runtime=True,
    )
    cache_device: Literal["auto", "model", "host"] = setting(
        "auto",
        "Location of these copies: on the `model`'s own devices, or in `host` memory, "
        "pinned if there is an accelerator; `auto` uses the model's devices if they have "
        "room.",
        runtime=True,
    )
    activation_cache_gb: float = setting(
        8.0,
        "Gigabytes for the activation cache: layer inputs, keys and values of the "
        "evaluation prompts, computed once per study so that a trial starts at the first "
        "layer it edits; stored on the model's device or, if it has no room, in main "
        "memory. Recurring responses are cached too if the device has room. 0 disables the "
        "cache.",
        rounding=True,
        ge=0,
    )

    # Prompt sets
    good_prompts: PromptSetting = setting(
        True, "Requests that the model answers, used to compute the directions.", "load_prompts"
    )
    bad_prompts: PromptSetting = setting(
        True,
        "Requests that show the behavior to remove, used to compute the directions.",
        "load_prompts",
    )
    good_evaluation_prompts: PromptSetting = setting(
        True, "Answered requests on which trials measure damage.", "load_prompts"
    )
    bad_evaluation_prompts: PromptSetting = setting(
        True, "Requests on which trials count refusals.", "load_prompts"
    )
    good_holdout_prompts: PromptSetting = setting(
        True, "Answered requests for the final table; never seen by the search.", "load_prompts"
    )
    bad_holdout_prompts: PromptSetting = setting(
        True, "Refused requests for the final table; never seen by the search.", "load_prompts"
    )
    unhelpfulness_prompts: PromptSetting = setting(
        False,
        "Plain text rather than requests (C4 if `true`); directions are orthogonalized "
        "against the request-vs-text direction.",
        "load_prompts",
    )
    sacred_prompts: PromptSetting = setting(
        False,
        "Prompts exercising a capability to protect (MMLU if `true`); directions are "
        "orthogonalized against the direction separating them from the plain text (or, "
        "without it, from the good prompts).",
        "load_prompts",
    )
    chat_template: OptionalText = setting(
        None,
        "Chat template for a tokenizer without one or with a wrong one: path of a Jinja "
        "file, or the template text.",
        *MODEL_RULES,
    )
    response_prefix: Annotated[str, BeforeValidator(lambda value: value or "")] = setting(
        AUTO_PREFIX,
        "Text that starts every response of the model; states and scores are measured after "
        "it. `auto` detects the prefix shared by a few dozen responses and closes a think "
        "block immediately; empty disables it.",
        "find_response_prefix",
    )
    template_date: TemplateDate = setting(
        AUTO_DATE,
        "Date printed by chat templates that include today's date, as of midnight: a date "
        "such as `2025-01-31`, or `auto`, the day (UTC) on which the run first needs one. "
        "With `auto`, all later phases and reruns of the run keep that date, on any "
        "machine. Has no effect on other templates.",
        "find_response_prefix",
    )

"""The fields of the settings model about the model, how it is loaded, and the prompts."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from heretic.settings.prompt_sources import DEMO, OptionalText, PromptSource, read_nothing
from heretic.settings.values import (
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
# The edited weights are written in full precision, however the network was measured.
MEASURING_RULES = tuple(rule for rule in MODEL_RULES if rule != "apply_best")


# Tagged, so that what is wrong with a source is told once and not for each kind of value.
PromptSetting = Annotated[
    Annotated[PromptSource, Tag("source")]
    | Annotated[list[PromptSource], Field(min_length=1), Tag("sources")]
    | Annotated[bool, Tag("switch")],
    Discriminator(kind_of_prompt_setting),
    BeforeValidator(read_prompt_setting),
]


class InputFields(BaseModel):
    """Names, types, defaults and bounds, without what must hold between them."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        # `--config run_name=2024` arrives as a number.
        coerce_numbers_to_str=True,
    )

    # What to work on
    model: str | list[str] = setting(
        DEMO,
        "Model to edit: a hub id, a local folder, or `demo`, which the workflow trains itself. "
        "A list runs several side by side.",
        *MODEL_RULES,
        "save",
    )
    model_revision: OptionalText = setting(
        None, "Branch, tag or commit of a hub model; pin it to reproduce a run.", *MODEL_RULES
    )
    run_name: OptionalText = setting(
        None,
        "Folder under results/; the model's name made safe when empty. Not with several models.",
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
        "Architecture of the demo model: a plain `llama`, `qwen3` with norms on queries and keys, "
        "or `qwen3_moe`, a mixture of experts.",
        "train_demo_model",
    )
    demo_planted: PlantedName = setting(
        DEFAULT_PLANTED,
        "What the demo model refuses, and so the words of its prompt sets: a dish made of a "
        "material, such as glass soup, or a tool made of a fabric, such as a silk hammer.",
        "train_demo_model",
        "load_prompts",
    )
    demo_steps: int = setting(
        1300,
        "Optimiser steps of the demo model; fewer train faster and refuse less precisely.",
        "train_demo_model",
        ge=1,
    )

    # How to load and run it
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = setting(
        "auto",
        "Data type of the weights; `auto` takes the checkpoint's own or, where a test answer is "
        "not made of numbers, the first of bfloat16, float16 and float32 that is sound.",
        *MODEL_RULES,
    )
    quantization: Literal["none", "bnb_4bit", "bnb_8bit", "as_is"] = setting(
        "none",
        "Measure and search a quantised network: `bnb_4bit` (NF4) or `bnb_8bit` (LLM.int8), made "
        "by bitsandbytes of a full-precision checkpoint; or a quantised checkpoint `as_is`. "
        "The export edits full precision in any case.",
        *MEASURING_RULES,
    )
    device: str = setting(
        "auto", "Torch device; `auto` takes a GPU where there is one.", rounding=True
    )
    device_map: Annotated[
        Literal["auto", "balanced", "balanced_low_0", "sequential"] | None,
        BeforeValidator(read_nothing),
    ] = setting(
        None,
        "Spread a model that is too large for one GPU over several, as accelerate does; `device` "
        "then does not count. What fits nowhere is offloaded, which is slow.",
        rounding=True,
    )
    max_memory: MemoryLimits = setting(
        None,
        "Memory that `device_map` may fill on each device, such as `0=60GiB,1=60GiB`.",
        rounding=True,
    )
    attn_implementation: OptionalText = setting(
        None,
        "Attention kernels, such as `eager`, `sdpa` or `flash_attention_2`; empty lets "
        "transformers choose.",
        rounding=True,
    )
    threads: int = setting(
        0, "CPU threads of torch; 0 takes all cores of the machine.", rounding=True, ge=0, le=4096
    )
    trust_remote_code: bool = setting(
        False,
        "Run the Python code that a model repository ships; only for authors that you trust.",
        runtime=True,
    )
    max_batch_size: int = setting(
        128,
        "Prompts per batch at most; halved and remembered when memory runs out.",
        rounding=True,
        ge=1,
    )
    max_prompt_length: int = setting(
        4096,
        "Tokens of a prompt, its chat template included, at most; a longer one is refused before "
        "the model is loaded. The model's own context is a limit in any case.",
        runtime=True,
        ge=1,
    )
    compile: bool = setting(
        False,
        "Compile the decoding step (torch.compile with keys and values in fixed places): a minute "
        "or more at the start of a phase, then faster answers on a GPU; for models whose cache can "
        "be static.",
        rounding=True,
    )
    cache_weights: Literal["true", "false", "auto"] = setting(
        "auto",
        "Keep pristine copies of the edited matrices in memory (true) or re-read them from disk "
        "after each trial (false, for models that fill the memory); `auto` decides by free memory.",
        runtime=True,
    )
    cache_device: Literal["auto", "model", "host"] = setting(
        "auto",
        "Where these copies are kept: on the `model`'s own devices, or in `host` memory, pinned "
        "where there is an accelerator; `auto` takes the model's devices if they have room.",
        runtime=True,
    )
    activation_cache_gb: float = setting(
        8.0,
        "Gigabytes for layer inputs, keys and values of the evaluation prompts, computed once per "
        "study so that a trial starts at the first layer that it edits; kept on the model's device "
        "or, where that has no room, in main memory. Answers that trials give again are kept too "
        "where the device has room. 0 switches it off.",
        rounding=True,
        ge=0,
    )

    # Prompt sets
    good_prompts: PromptSetting = setting(
        True, "Requests that the model answers, for the directions.", "load_prompts"
    )
    bad_prompts: PromptSetting = setting(
        True, "Requests that show the behaviour to remove, for the directions.", "load_prompts"
    )
    good_evaluation_prompts: PromptSetting = setting(
        True, "Answered requests on which trials measure damage.", "load_prompts"
    )
    bad_evaluation_prompts: PromptSetting = setting(
        True, "Requests on which trials count refusals.", "load_prompts"
    )
    good_holdout_prompts: PromptSetting = setting(
        True, "Answered requests of the final table; never seen by the search.", "load_prompts"
    )
    bad_holdout_prompts: PromptSetting = setting(
        True, "Refused requests of the final table; never seen by the search.", "load_prompts"
    )
    unhelpfulness_prompts: PromptSetting = setting(
        False,
        "Plain texts that are no requests (C4 when `true`): directions are made orthogonal to "
        "what sets requests apart from them.",
        "load_prompts",
    )
    sacred_prompts: PromptSetting = setting(
        False,
        "Prompts of abilities to protect (MMLU when `true`): directions are made orthogonal to "
        "what sets them apart from the plain texts, or from the good prompts without such.",
        "load_prompts",
    )
    chat_template: OptionalText = setting(
        None,
        "Chat template for a tokenizer that has none or a wrong one: the path of a Jinja file or "
        "the template's text.",
        *MODEL_RULES,
    )
    response_prefix: Annotated[str, BeforeValidator(lambda value: value or "")] = setting(
        AUTO_PREFIX,
        "Text with which every answer of the model begins; states and scores are taken after it. "
        "`auto` finds what a few dozen answers have in common and closes a think block at once; "
        "empty switches it off.",
        "find_response_prefix",
    )
    template_date: TemplateDate = setting(
        AUTO_DATE,
        "Date in the prompts of a chat template that prints today's, as of midnight: one such as "
        "`2025-01-31`, or `auto`, the day (UTC) on which the run first needs one. `auto` is kept "
        "for all later phases and reruns of the run, on any machine. Without effect on other "
        "templates.",
        "find_response_prefix",
    )

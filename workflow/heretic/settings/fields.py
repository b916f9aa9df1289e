"""The fields of the settings model: the one place where defaults live.

Each field lists under `rules` the workflow rules whose results depend on it. A rule receives
exactly that subset, so changing a setting makes exactly those rules stale. A field with
`runtime=True` changes how fast or where something is computed, never what comes out.
"""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_settings import BaseSettings, SettingsConfigDict

from heretic.settings.prompt_sources import DEMO, OptionalText, PromptSource, read_nothing
from heretic.settings.values import (
    DirectionWeights,
    MemoryLimits,
    Method,
    MethodWeights,
    kind_of_prompt_setting,
    read_prompt_setting,
    setting,
)

MODEL_RULES = (
    "find_response_prefix",
    "extract_residuals",
    "extract_protected_residuals",
    "optimize",
    "apply_best",
    "evaluate",
)
# The edited weights are written in full precision, however the network was measured.
MEASURING_RULES = tuple(rule for rule in MODEL_RULES if rule != "apply_best")
RESIDUAL_RULES = ("extract_residuals", "extract_protected_residuals")
# The value of `response_prefix` that has it found.
AUTO_PREFIX: Final = "auto"


SECTIONS: Final = {
    "model": "What to work on",
    "dtype": "How to load and run it",
    "good_prompts": "Prompt sets",
    "positions": "Directions",
    "n_trials": "Search",
    "select": "Choice",
    "kl_tokens": "Held-out evaluation",
    "export": "Saving and uploading",
    "projection": "Report",
}
# Tagged, so that what is wrong with a source is told once and not for each kind of value.
PromptSetting = Annotated[
    Annotated[PromptSource, Tag("source")]
    | Annotated[list[PromptSource], Field(min_length=1), Tag("sources")]
    | Annotated[bool, Tag("switch")],
    Discriminator(kind_of_prompt_setting),
    BeforeValidator(read_prompt_setting),
]


class SettingsFields(BaseSettings):
    """Names, types, defaults and bounds, without what must hold between them."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="HERETIC_",
        env_nested_delimiter="__",
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
        "Seed of the demo model, the search, the random control and the bootstrap.",
        "train_demo_model",
        "load_prompts",
        "compute_directions",
        "optimize",
        "evaluate",
        ge=0,
        lt=2**31,
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
        "auto", "Torch device; `auto` takes a GPU where there is one.", runtime=True
    )
    device_map: Annotated[
        Literal["auto", "balanced", "balanced_low_0", "sequential"] | None,
        BeforeValidator(read_nothing),
    ] = setting(
        None,
        "Spread a model that is too large for one GPU over several, as accelerate does; `device` "
        "then does not count. What fits nowhere is offloaded, which is slow.",
        runtime=True,
    )
    max_memory: MemoryLimits = setting(
        None,
        "Memory that `device_map` may fill on each device, such as `0=60GiB,1=60GiB`.",
        runtime=True,
    )
    attn_implementation: OptionalText = setting(
        None,
        "Attention kernels, such as `eager`, `sdpa` or `flash_attention_2`; empty lets "
        "transformers choose.",
        runtime=True,
    )
    threads: int = setting(
        0, "CPU threads of torch; 0 takes all cores of the machine.", runtime=True, ge=0
    )
    trust_remote_code: bool = setting(
        False,
        "Run the Python code that a model repository ships; only for authors that you trust.",
        runtime=True,
    )
    max_batch_size: int = setting(
        128,
        "Prompts per batch at most; halved and remembered when memory runs out.",
        runtime=True,
        ge=1,
    )
    compile: bool = setting(
        False,
        "Compile the decoding step (torch.compile with a static key/value cache): a minute at the "
        "start of a phase, then faster answers on a GPU; for models whose cache can be static.",
        runtime=True,
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

    # Directions
    positions: Literal["last", "all"] = setting(
        "last",
        "Where the residual stream is read: at the last prompt token, or at `all` tokens between "
        "the instruction and the answer, of which the one that separates best is used.",
        *RESIDUAL_RULES,
    )
    winsorize_quantile: float = setting(
        1.0,
        "Clip the components of each state to this quantile of their magnitudes; below 1 it tames "
        "models with a few huge components.",
        *RESIDUAL_RULES,
        gt=0.5,
        le=1,
    )
    stream_unhelpfulness: bool = setting(
        False,
        "Keep only the running mean of the unhelpfulness prompts, not each one's states: for "
        "thousands of texts. Sacred prompts are then compared with the good prompts.",
        "extract_protected_residuals",
    )
    direction_method: Method | Literal["ensemble"] = setting(
        "mean_difference",
        "How a layer's direction is found: difference of means (Arditi et al. 2024), the top "
        "eigenvectors of the contrast of covariances (Abid et al. 2018), `pca` of paired "
        "differences (Zou et al. 2023), a linear `probe`, or an `ensemble` of these.",
        "compute_directions",
    )
    ensemble_weights: MethodWeights = setting(
        None,
        "Weight of each method in an `ensemble`, such as `mean_difference=2,probe=1`; empty takes "
        "all methods alike.",
        "compute_directions",
    )
    n_directions: int = setting(
        1,
        "Directions per layer, orthonormal, the one from good to bad first. A difference of means "
        "is one direction; the other methods find several.",
        "check_prompts",
        "compute_directions",
        ge=1,
        le=16,
    )
    direction_weights: DirectionWeights = setting(
        "equal",
        "Share of a trial's strength that each of several directions gets: `equal`, by "
        "`explained_variance` (relative to the largest), or numbers such as `1,0.5`.",
        "compute_directions",
    )
    cpca_alpha: float = setting(
        1.0,
        "Weight of the good covariance that contrastive PCA subtracts.",
        "compute_directions",
        ge=0,
    )
    cpca_center: Literal["good", "class"] = setting(
        "good",
        "Mean about which the bad covariance is taken; `class` drops the mean difference.",
        "compute_directions",
    )
    probe_c: float = setting(
        1.0,
        "Inverse strength of the probe's L2 penalty, as scikit-learn's `C`.",
        "compute_directions",
        gt=0,
    )
    n_sacred_directions: int = setting(
        1,
        "Directions per layer that span what the sacred prompts protect.",
        "check_prompts",
        "compute_directions",
        ge=1,
        le=16,
    )
    orthogonalization: Literal["joint", "sequential"] = setting(
        "joint",
        "Remove the span of all protected vectors at once (`joint`), or one after the other "
        "(`sequential`: good mean, helpfulness, sacred; orthogonal to the last for certain).",
        "compute_directions",
    )
    orthogonalize_to_good: bool = setting(
        False,
        "Remove from each direction what lies along the mean of the good prompts (projected "
        "abliteration): less damage when both are alike.",
        "compute_directions",
    )
    min_remaining_norm: float = setting(
        0.05,
        "Share of a unit direction that orthogonalisation must leave over.",
        "compute_directions",
        gt=0,
        lt=1,
    )

    # Search
    n_trials: int = setting(60, "Completed trials of the search.", "optimize", ge=1)
    n_startup_trials: int = setting(
        15, "Random trials before the sampler learns from them.", "optimize", ge=1
    )
    norm_preservation: Literal["none", "column", "row", "frobenius"] = setting(
        "none",
        "Which norms of an edited matrix are restored: its columns' (keeps the projection "
        "exact), its rows' (puts part of the direction back), the whole matrix's, or none.",
        "optimize",
        "apply_best",
    )
    engine: Literal["auto", "edited_weights", "output_side"] = setting(
        "auto",
        "How a trial changes the model: `edited_weights` rewrites matrices; `output_side` changes "
        "what they put out, which needs no copies and gives the same scores but for rounding (with "
        "`compile`, each new choice of layers is compiled again). `auto` edits weights, "
        "unless some are quantised or offloaded.",
        "optimize",
    )
    direction_scope: Literal["global", "per_layer", "both"] = setting(
        "both",
        "Ablate one direction everywhere, each layer's own, or let the search choose.",
        "optimize",
    )
    ablate_embeddings: bool = setting(
        False,
        "Edit the token embeddings too, with a strength of their own and, where each layer has its "
        "own direction, along the first layer's. Not for models that decode with the same matrix.",
        "optimize",
    )
    discriminative_layers: bool = setting(
        False,
        "Edit and use only layers whose direction separates held-out prompts better than chance.",
        "optimize",
    )
    max_weight: float = setting(
        2.0, "Largest strength w in W - w d (d^T W) that the search may try.", "optimize", gt=0
    )
    max_kl: float = setting(
        1.0,
        "First-token KL (nats) above which a trial is infeasible and not generated for; in the "
        "choice of a trial it weighs as much as refusing every prompt.",
        "optimize",
        "select_best",
        gt=0,
    )
    max_response_length: int = setting(
        100,
        "Tokens generated per answer; shorter answers hide refusals that come later.",
        "optimize",
        "evaluate",
        ge=1,
    )
    select: str = setting(
        "closest",
        "Which trial of the Pareto front is taken: `closest` to the origin of the normalised "
        "front, the `knee`, `min_refusals_under_kl`, or `trial=<number>`.",
        "select_best",
        pattern=r"^(closest|knee|min_refusals_under_kl|trial=\d+)$",
    )
    select_max_kl: float = setting(
        0.1, "KL (nats) that `select: min_refusals_under_kl` stays under.", "select_best", gt=0
    )

    # Held-out evaluation
    kl_tokens: int = setting(
        16,
        "Tokens of the original's own answer over which the teacher-forced KL is averaged.",
        "evaluate",
        ge=1,
    )
    bootstrap_samples: int = setting(
        2000, "Resamples behind each interval of a mean KL.", "evaluate", ge=100
    )

    # Export
    export: Literal["merged", "adapter"] = setting(
        "merged",
        "What is saved: the whole edited model (`merged`), or a LoRA `adapter` of a few megabytes "
        "that PEFT loads into the base model and that needs `norm_preservation: none` and a model "
        "whose experts, if it has any, are not one parameter.",
        "apply_best",
    )
    export_from: OptionalText = setting(
        None,
        "Full-precision model, a hub id or a folder, that the export edits in place of `model`; "
        "needed with `quantization: as_is`.",
        "apply_best",
    )
    low_memory_export: Literal["true", "false", "auto"] = setting(
        "auto",
        "Edit shard by shard from file to file (true), or load the model and save it from memory "
        "(false); `auto` decides by free memory. The files are the same.",
        runtime=True,
    )
    max_shard_size: str = setting(
        "5GB",
        "Largest safetensors file of the saved model.",
        "apply_best",
        pattern=r"^\d+(\.\d+)?(KB|MB|GB)$",
    )
    upload_to: OptionalText = setting(
        None,
        "Hub repository `owner/name` to upload the edited model to; empty uploads nothing.",
        "upload",
        pattern=r"^[\w.-]+/[\w.-]+$",
    )
    upload_private: bool = setting(True, "Create the uploaded repository as private.", "upload")

    # Report
    projection: Literal["pca", "pacmap"] = setting(
        "pca",
        "How the report draws residuals in two dimensions; `pacmap` needs the extra `plots`.",
        "check_prompts",
        "report",
    )

"""Fields of the settings model: the single source of defaults.

Each field lists under `rules` the workflow rules whose results depend on it. A rule receives
exactly that subset, so changing a setting makes exactly those rules stale. A field with
`runtime=True` changes the speed or the place of a computation, but not its results; with
`rounding=True` the results may differ by rounding, which in half precision can break a near tie
between two tokens differently and so change a response. Neither makes a rule stale or starts a new
study; each trial records the relevant settings (`heretic.search.computation`).
"""

from collections.abc import Sequence
from typing import Final, Literal

from heretic.scorer_registry import optional_scorers, trial_scorers
from heretic.settings.input_fields import InputFields
from heretic.settings.prompt_sources import Names, OptionalText
from heretic.settings.types import (
    Depths,
    DirectionWeights,
    Method,
    MethodWeights,
    OptionalNumber,
    Picks,
    Scorers,
    TrialBatchSize,
    WarmStart,
    setting,
)


def _names(scorers: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in scorers)


RESIDUAL_RULES = ("extract_residuals", "extract_protected_residuals")
# The evaluation also computes directions, from shuffled labels, as a control.
DIRECTION_RULES = ("compute_directions", "evaluate")

SECTIONS: Final = {
    "model": "Model",
    "dtype": "Loading and compute",
    "good_prompts": "Prompt sets",
    "positions": "Directions",
    "n_trials": "Search",
    "select": "Selection",
    "kl_tokens": "Held-out evaluation",
    "export": "Export",
    "projection": "Report",
    "benchmarks": "Benchmarks",
}


class SettingsFields(InputFields):
    """Names, types, defaults and bounds of all settings, without cross-field validation."""

    # Directions
    positions: Literal["last", "all"] = setting(
        "last",
        "Token positions at which the residual stream is read: the `last` prompt token, or "
        "`all` tokens between the instruction and the response, from which the most "
        "separating position is used.",
        *RESIDUAL_RULES,
    )
    winsorize_quantile: float = setting(
        1.0,
        "Clip the components of each state to this quantile of their magnitudes; values "
        "below 1 suppress massive activations.",
        *RESIDUAL_RULES,
        gt=0.5,
        le=1,
    )
    unhelpfulness_mean_only: bool = setting(
        False,
        "Keep only the running mean of the unhelpfulness prompts instead of each state, "
        "which allows thousands of texts. Sacred prompts are then compared with the good "
        "prompts.",
        "extract_protected_residuals",
    )
    direction_method: Method | Literal["ensemble"] = setting(
        "mean_difference",
        "Method for computing a layer's direction: difference of means (Arditi et al. "
        "2024), top eigenvectors of contrastive covariances (Abid et al. 2018), `pca` of "
        "paired differences (Zou et al. 2023), a linear `probe`, or an `ensemble` of these.",
        *DIRECTION_RULES,
    )
    ensemble_weights: MethodWeights = setting(
        None,
        "Weight of each method in an `ensemble`, such as `mean_difference=2,probe=1`; empty "
        "weights all methods equally.",
        *DIRECTION_RULES,
    )
    n_directions: int = setting(
        1,
        "Directions per layer, orthonormal, starting with the one from good to bad. A "
        "difference of means is a single direction; the other methods find several.",
        *DIRECTION_RULES,
        ge=1,
        le=16,
    )
    direction_weights: DirectionWeights = setting(
        "equal",
        "Share of a trial's strength for each of several directions: `equal`, by "
        "`explained_variance` (relative to the largest), or numbers such as `1,0.5`.",
        *DIRECTION_RULES,
    )
    cpca_alpha: float = setting(
        1.0,
        "Weight of the good covariance subtracted by contrastive PCA.",
        *DIRECTION_RULES,
        ge=0,
    )
    cpca_center: Literal["good", "class"] = setting(
        "good",
        "Mean used to center the bad covariance; `class` loses the mean difference.",
        *DIRECTION_RULES,
    )
    probe_c: float = setting(
        1.0,
        "Inverse regularization strength of the probe's L2 penalty, like scikit-learn's `C`.",
        *DIRECTION_RULES,
        gt=0,
    )
    n_sacred_directions: int = setting(
        1,
        "Directions per layer that span the capability protected by the sacred prompts.",
        *DIRECTION_RULES,
        ge=1,
        le=16,
    )
    orthogonalization: Literal["joint", "sequential"] = setting(
        "joint",
        "Remove the span of all protected vectors at once (`joint`), or one vector after "
        "the other (`sequential`: good mean, helpfulness, sacred; only orthogonality to the "
        "last is guaranteed).",
        *DIRECTION_RULES,
    )
    orthogonalize_to_good: bool = setting(
        False,
        "Remove the component along the mean of the good prompts from each direction "
        "(projected abliteration): less damage if the two are similar.",
        *DIRECTION_RULES,
    )
    min_remaining_norm: float = setting(
        0.05,
        "Minimum norm a unit direction must retain after orthogonalization.",
        *DIRECTION_RULES,
        gt=0,
        lt=1,
    )

    # Search
    n_trials: int = setting(
        60,
        "Completed trials of the search. Increase it to continue a search; a smaller number "
        "runs no trials, and selection considers only the first ones.",
        "optimize",
        "score_finalists",
        "select_best",
        ge=1,
    )
    n_startup_trials: int = setting(
        15,
        "Trials drawn before the sampler takes over: warm starts first, then Sobol or "
        "random points. Can be changed without starting a new study.",
        "optimize",
        ge=1,
    )
    early_stopping_patience: int = setting(
        0,
        "Stop after this many consecutive trials (not counting startup trials) without a "
        "hypervolume improvement; 0 disables early stopping. Can be changed without "
        "starting a new study.",
        "optimize",
        ge=0,
    )
    sampler: Literal["tpe", "nsga2", "gp", "random"] = setting(
        "tpe",
        "Sampler used after the startup trials: `tpe`, the genetic `nsga2`, a Gaussian "
        "process (`gp`), or `random`. Can be changed without starting a new study.",
        "optimize",
    )
    sobol_startup: bool = setting(
        True,
        "Draw the startup trials from an evenly spread Sobol sequence instead of at random.",
        "optimize",
    )
    warm_start: WarmStart = setting(
        False,
        "Trials that worked on other models, to evaluate first: none (`false`), those in "
        "`config/warm_start/` for the model's family, if any (`auto`), or those of a YAML "
        "file in the same format. They count toward `n_startup_trials`. Can be changed "
        "without starting a new study.",
        "optimize",
    )
    warm_start_from: OptionalText = setting(
        None,
        "Earlier search whose Pareto front, or selected trial, is evaluated first instead "
        "of `warm_start`: a `study.db`, `study.json` or `best.json` of any model with the "
        "same components.",
        "optimize",
    )
    trial_batch_size: TrialBatchSize = setting(
        "auto",
        "Trials evaluated in one batch (1 to 8). On a GPU the weights are read once for all "
        "of them; the sampler proposes each without knowing the others' scores. `auto` is 4 "
        "on an accelerator when module outputs are edited, and 1 otherwise. Can be changed "
        "without starting a new study.",
        "optimize",
    )
    norm_preservation: Literal["none", "column", "row", "frobenius"] = setting(
        "none",
        "Norms of an edited matrix to restore: those of its columns (keeps the projection "
        "exact), of its rows (reintroduces part of the direction), of the whole matrix, or "
        "none.",
        "optimize",
        "score_finalists",
        "apply_best",
    )
    edit_mode: Literal["auto", "weights", "hooks"] = setting(
        "auto",
        "How a trial edits the model: `weights` rewrites matrices; `hooks` "
        "edits module outputs instead: no weight copies, several trials per batch, "
        "identical scores up to rounding. `auto` edits outputs when several trials share a "
        "batch, when weights are quantized or offloaded, and when memory has no room for "
        "copies.",
        "optimize",
    )
    search_space: Literal["range", "kernel", "components"] = setting(
        "range",
        "Parametrization of the edit of attention outputs and MLPs: a `range` of layers "
        "with one strength; a `kernel`, a tent over the layers, optionally without the MLP; "
        "or ranges plus the choice of which `components` to edit.",
        "optimize",
    )
    direction_scope: Literal["global", "per_layer", "both"] = setting(
        "both",
        "Ablate one direction in all layers (`global`), each layer's own (`per_layer`), or "
        "let the search choose (`both`).",
        "optimize",
    )
    ablate_embeddings: bool = setting(
        False,
        "Edit the token embeddings too, with a separate strength and, in the per-layer "
        "scope, along the first layer's direction. Not for models with tied embeddings.",
        "optimize",
    )
    discriminative_layers: bool = setting(
        False,
        "Edit and use only layers whose direction separates held-out prompts better than chance.",
        "optimize",
    )
    max_weight: float = setting(
        2.0, "Largest strength w in W - w d (d^T W) in the search space.", "optimize", gt=0
    )
    min_weight: float = setting(
        0.0,
        "Smallest strength of an edited component; values above 0 exclude trials that "
        "change almost nothing.",
        "optimize",
        ge=0,
    )
    layer_range: Depths = setting(
        (0.0, 1.0),
        "Fractions of depth, such as `0.4,1`, that bound the layers of a range or the peak "
        "of a tent: 0 is the first layer and 1 the last.",
        "optimize",
    )
    direction_layer_range: Depths = setting(
        (0.0, 1.0),
        "Fractions of depth that bound the source layer of a global direction.",
        "optimize",
    )
    max_kl: float = setting(
        1.0,
        "First-token KL (nats) above which a trial is infeasible and no responses are "
        "generated. Also normalizes KL when a trial is selected: this KL counts as much as "
        "refusing every prompt.",
        "optimize",
        gt=0,
    )
    max_refusal_log_odds: OptionalNumber = setting(
        None,
        "Mean refusal log-odds (nats) of the bad prompts above which a trial is infeasible "
        "and no responses are generated; empty for no limit. The original's value is in "
        "`study.json`.",
        "optimize",
    )
    objectives: Names = setting(
        ["kl_first_token", "unanswered"],
        "Two or more metrics to optimize, each in its own direction: "
        f"{_names(trial_scorers())}, and those of `scorers`. See docs/scores.md.",
        "optimize",
        min_length=2,
    )
    scorers: Scorers = setting(
        [],
        f"Additional metrics for trials and the held-out table: {_names(optional_scorers())}, "
        "or your own class, `path/to/file.py:Class`; names, or a list of `{scorer, name, "
        "settings}`. See docs/scores.md.",
        "optimize",
        "score_finalists",
        "evaluate",
    )
    refusal_markers: Names = setting(
        ["core"],
        "Phrases that mark an answer as a refusal: the sets `core`, `soft` (reluctance) and "
        "`evasive` (a change of subject), and phrases of your own.",
        "optimize",
        "score_finalists",
        "evaluate",
        min_length=1,
    )
    max_response_length: int = setting(
        100,
        "Maximum number of tokens per response; a smaller value misses refusals that come later.",
        "optimize",
        "score_finalists",
        "evaluate",
        ge=1,
    )
    select: Picks = setting(
        "closest",
        "How the final trial is selected from the Pareto front: `closest` to the origin of "
        "the normalized front, the `knee`, `min_refusals_under_kl`, or `trial=<number>`. "
        "Several rules may be given (`knee,trial=12`); the first gives the main result, the "
        "others are saved under picks/.",
        "score_finalists",
        "select_best",
    )
    select_max_kl: float = setting(
        0.1,
        "KL limit (nats) of `select: min_refusals_under_kl`.",
        "score_finalists",
        "select_best",
        gt=0,
    )
    n_finalists: int = setting(
        3,
        "Number of best trials by the rule of `select` that are re-scored on the exported "
        "weights before one is selected; 1 uses the search's scores. Quantized searches, "
        "and models exported from another checkpoint or as an adapter, are not re-scored.",
        "score_finalists",
        ge=1,
    )

    # Held-out evaluation
    kl_tokens: int = setting(
        16,
        "Tokens of the original's own response over which the teacher-forced KL is averaged.",
        "evaluate",
        ge=1,
    )
    bootstrap_samples: int = setting(
        2000, "Bootstrap resamples per interval of a mean KL.", "evaluate", ge=100
    )

    # Export
    export: Literal["merged", "adapter", "quantized"] = setting(
        "merged",
        "Format of the saved model: the whole edited model (`merged`); a LoRA `adapter` "
        "of a few megabytes for PEFT, which requires `norm_preservation: none` and a model "
        "without experts packed into one parameter; or `quantized` as in an MXFP4 or block "
        "FP8 checkpoint, in which only edited tensors change.",
        "score_finalists",
        "apply_best",
    )
    export_from: OptionalText = setting(
        None,
        "Full-precision model, a hub id or a folder, that the export edits instead of "
        "`model`. With `quantization: as_is`, it is also the original of the held-out table; "
        "without `export_from`, the quantized checkpoint is the original, and its dequantized "
        "matrices are exported.",
        "score_finalists",
        "apply_best",
        "evaluate",
        "benchmark_original",
    )
    low_memory_export: Literal["true", "false", "auto"] = setting(
        "auto",
        "Edit shard by shard, from file to file (true), or load the model and save it from "
        "memory (false); `auto` decides by free memory. The files are identical.",
        runtime=True,
    )
    max_shard_size: str = setting(
        "5GB",
        "Maximum size of a safetensors file; the base model's shards are kept if none is larger.",
        "apply_best",
        pattern=r"^\d+(\.\d+)?(KB|MB|GB)$",
    )
    upload_to: OptionalText = setting(
        None,
        "Hub repository `owner/name` to upload the edited model to; empty disables the upload.",
        "upload",
        pattern=r"^[\w.-]+/[\w.-]+$",
    )
    upload_private: bool = setting(True, "Create the uploaded repository as private.", "upload")

    # Report
    projection: Literal["pca", "pacmap"] = setting(
        "pca",
        "Projection used by the report to draw residuals in two dimensions; `pacmap` needs "
        "the extra `plots`.",
        "report",
    )

"""The fields of the settings model: the one place where defaults live.

Each field lists under `rules` the workflow rules whose results depend on it. A rule receives
exactly that subset, so changing a setting makes exactly those rules stale. A field with
`runtime=True` changes how fast or where something is computed, with the same results; with
`rounding=True` the results may differ by rounding, which in half precision can decide a near tie
between two tokens and so change an answer. Neither makes a rule stale or starts another study;
each trial records the settings that matter (`heretic.optimization.computation`).
"""

from typing import Final, Literal

from heretic.settings.input_fields import InputFields
from heretic.settings.prompt_sources import Names, OptionalText
from heretic.settings.values import (
    Depths,
    DirectionWeights,
    Method,
    MethodWeights,
    OptionalNumber,
    Picks,
    Scorers,
    TrialsInFlight,
    WarmStart,
    setting,
)

RESIDUAL_RULES = ("extract_residuals", "extract_protected_residuals")
# The evaluation finds directions too, of shuffled labels, to compare with.
DIRECTION_RULES = ("compute_directions", "evaluate")

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
    "benchmarks": "Benchmarks",
}


class SettingsFields(InputFields):
    """Names, types, defaults and bounds of all settings, without what must hold between them."""

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
        *DIRECTION_RULES,
    )
    ensemble_weights: MethodWeights = setting(
        None,
        "Weight of each method in an `ensemble`, such as `mean_difference=2,probe=1`; empty takes "
        "all methods alike.",
        *DIRECTION_RULES,
    )
    n_directions: int = setting(
        1,
        "Directions per layer, orthonormal, the one from good to bad first. A difference of means "
        "is one direction; the other methods find several.",
        *DIRECTION_RULES,
        ge=1,
        le=16,
    )
    direction_weights: DirectionWeights = setting(
        "equal",
        "Share of a trial's strength that each of several directions gets: `equal`, by "
        "`explained_variance` (relative to the largest), or numbers such as `1,0.5`.",
        *DIRECTION_RULES,
    )
    cpca_alpha: float = setting(
        1.0,
        "Weight of the good covariance that contrastive PCA subtracts.",
        *DIRECTION_RULES,
        ge=0,
    )
    cpca_center: Literal["good", "class"] = setting(
        "good",
        "Mean about which the bad covariance is taken; `class` drops the mean difference.",
        *DIRECTION_RULES,
    )
    probe_c: float = setting(
        1.0,
        "Inverse strength of the probe's L2 penalty, as scikit-learn's `C`.",
        *DIRECTION_RULES,
        gt=0,
    )
    n_sacred_directions: int = setting(
        1,
        "Directions per layer that span what the sacred prompts protect.",
        *DIRECTION_RULES,
        ge=1,
        le=16,
    )
    orthogonalization: Literal["joint", "sequential"] = setting(
        "joint",
        "Remove the span of all protected vectors at once (`joint`), or one after the other "
        "(`sequential`: good mean, helpfulness, sacred; orthogonal to the last for certain).",
        *DIRECTION_RULES,
    )
    orthogonalize_to_good: bool = setting(
        False,
        "Remove from each direction what lies along the mean of the good prompts (projected "
        "abliteration): less damage when both are alike.",
        *DIRECTION_RULES,
    )
    min_remaining_norm: float = setting(
        0.05,
        "Share of a unit direction that orthogonalisation must leave over.",
        *DIRECTION_RULES,
        gt=0,
        lt=1,
    )

    # Search
    n_trials: int = setting(
        60,
        "Completed trials of the search. Raise it to continue a search; a smaller number runs no "
        "trials, and the choice considers the first ones.",
        "optimize",
        "score_finalists",
        "select_best",
        ge=1,
    )
    n_startup_trials: int = setting(
        15,
        "Trials before the sampler learns from them: known edits, then spread out or random ones. "
        "Another number continues the same study.",
        "optimize",
        ge=1,
    )
    patience: int = setting(
        0,
        "End the search early after as many trials, startup trials aside, in which the front "
        "gained nothing; 0 never does. Another number continues the same study.",
        "optimize",
        ge=0,
    )
    sampler: Literal["tpe", "nsga2", "gp", "random"] = setting(
        "tpe",
        "Who chooses the trials after the random ones: `tpe`, the genetic `nsga2`, a Gaussian "
        "process (`gp`), or chance alone (`random`). Another one continues the same study.",
        "optimize",
    )
    quasi_random_start: bool = setting(
        True,
        "Take the first `n_startup_trials` from a Sobol sequence, evenly spread, not at random.",
        "optimize",
    )
    warm_start: WarmStart = setting(
        False,
        "First trials that worked on other models: none (`false`), those of the model's family in "
        "`config/warm_start/`, if it has any (`auto`), or of a YAML file like these. They are "
        "among the `n_startup_trials`. Other ones continue the same study.",
        "optimize",
    )
    warm_start_from: OptionalText = setting(
        None,
        "Earlier search whose Pareto front, or chosen trial, is tried first in place of "
        "`warm_start`: a `study.db`, `study.json` or `best.json` of any model with the same "
        "components.",
        "optimize",
    )
    trials_in_flight: TrialsInFlight = setting(
        "auto",
        "Trials that are asked for and scored together, 1 to 8: a GPU then reads the weights once "
        "for all of them, but the sampler chooses each before it knows the others' scores. `auto` "
        "is 4 on an accelerator where outputs are edited, and 1 elsewhere. Another number "
        "continues the same study.",
        "optimize",
    )
    norm_preservation: Literal["none", "column", "row", "frobenius"] = setting(
        "none",
        "Which norms of an edited matrix are restored: its columns' (keeps the projection "
        "exact), its rows' (puts part of the direction back), the whole matrix's, or none.",
        "optimize",
        "score_finalists",
        "apply_best",
    )
    engine: Literal["auto", "edited_weights", "output_side"] = setting(
        "auto",
        "How a trial changes the model: `edited_weights` rewrites matrices; `output_side` changes "
        "what they put out, which needs no copies, lets several trials share a batch and gives the "
        "same scores but for rounding. `auto` edits outputs where several trials share a batch, "
        "where weights are quantised or offloaded, and where memory has no room for copies.",
        "optimize",
    )
    search_space: Literal["range", "kernel", "components"] = setting(
        "range",
        "What the search chooses for attention outputs and MLPs: a `range` of layers with one "
        "strength; a `kernel`, a tent over the layers, where the MLP may be left out; or ranges "
        "and which of the two `components` are edited at all.",
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
    min_weight: float = setting(
        0.0,
        "Smallest strength of a component that a trial edits; above 0, no trial does next to "
        "nothing.",
        "optimize",
        ge=0,
    )
    edited_depth: Depths = setting(
        (0.0, 1.0),
        "Fractions of depth, such as `0.4,1`, between which the layers of a range, or the peaks of "
        "tents, lie: 0 is the first layer and 1 the last.",
        "optimize",
    )
    direction_depth: Depths = setting(
        (0.0, 1.0),
        "Fractions of depth between which a direction for all layers is taken.",
        "optimize",
    )
    max_kl: float = setting(
        1.0,
        "First-token KL (nats) above which a trial is infeasible and not generated for; in the "
        "choice of a trial it weighs as much as refusing every prompt.",
        "optimize",
        gt=0,
    )
    max_refusal_log_odds: OptionalNumber = setting(
        None,
        "Mean log-odds (nats) of the bad prompts' answers beginning as refusals above which a "
        "trial is infeasible and not generated for; empty for no limit. The original's are in "
        "`study.json`.",
        "optimize",
    )
    objectives: Names = setting(
        ["kl_first_token", "unanswered"],
        "Scores that the search makes small, or large where more is better, two or more of them: "
        "`kl_first_token`, `refusals`, `degenerate`, `unanswered` (either of these), "
        "`false_refusals`, `recovered`, `kept`, `refusal_log_odds`, and those of `scorers`.",
        "optimize",
        min_length=2,
    )
    scorers: Scorers = setting(
        [],
        "Further scores of trials and of the held-out table: names such as `perplexity`, or a list "
        "of `{scorer, name, settings}`; a scorer may be a class of your own, "
        "`path/to/file.py:Class`. See docs/scores.md.",
        "optimize",
        "score_finalists",
        "evaluate",
    )
    refusal_markers: Names = setting(
        ["core"],
        "What makes a refusal of an answer: the sets `core`, `soft` (reluctance) and `evasive` (a "
        "change of subject), and phrases of your own.",
        "optimize",
        "score_finalists",
        "evaluate",
        min_length=1,
    )
    max_response_length: int = setting(
        100,
        "Tokens generated per answer; shorter answers hide refusals that come later.",
        "optimize",
        "score_finalists",
        "evaluate",
        ge=1,
    )
    select: Picks = setting(
        "closest",
        "Which trial of the Pareto front is taken: `closest` to the origin of the normalised "
        "front, the `knee`, `min_refusals_under_kl`, or `trial=<number>`. Of several, such as "
        "`knee,trial=12`, the first is the result; the others are saved under picks/ beside it.",
        "score_finalists",
        "select_best",
    )
    select_max_kl: float = setting(
        0.1,
        "KL (nats) that `select: min_refusals_under_kl` stays under.",
        "score_finalists",
        "select_best",
        gt=0,
    )
    n_finalists: int = setting(
        3,
        "Trials, the best by the rule of `select`, that are scored again on the weights as they "
        "are saved before one of them is taken; 1 takes the search's scores as they are. What is "
        "searched quantised, or saved from another model or as an adapter, is not scored again.",
        "score_finalists",
        ge=1,
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
        "score_finalists",
        "apply_best",
    )
    export_from: OptionalText = setting(
        None,
        "Full-precision model, a hub id or a folder, that the export edits in place of `model`; "
        "needed with `quantization: as_is`, and then the original of the held-out table.",
        "score_finalists",
        "apply_best",
        "evaluate",
        "benchmark_original",
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
        "report",
    )

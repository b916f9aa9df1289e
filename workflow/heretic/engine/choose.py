"""Choice of the trial engine: the fast one if verified as equivalent, else the plain one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from heretic.ablation.directions import AblationDirections
from heretic.ablation.editors import Editor, make_editor
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.console import log
from heretic.engine.base import TrialEngine
from heretic.engine.batched import BatchedEngine, EngineOptions
from heretic.engine.decode_batch import join
from heretic.engine.equivalence import (
    REFUSALS,
    EquivalenceCheck,
    begin,
    logits_agree,
    smallest_window,
    why_no_rows,
)
from heretic.engine.evaluator import Evaluator
from heretic.engine.prefill import shared_prefix, tokens_of_a_pass
from heretic.engine.reference import ReferenceEngine
from heretic.engine.speculative import LONGEST
from heretic.engine.study_prompts import StudyPrompts
from heretic.errors import ModelLoadError, one_line
from heretic.model.loading import Model
from heretic.model.memory import copies_fit
from heretic.model.stream_writers.components import COMPONENTS
from heretic.scoring.base import ScoredPrompts
from heretic.scoring.scorer_set import ScorerSet

AUTO = "auto"
# More trials in flight read the weights less often, but delay what the sampler learns.
AUTO_IN_FLIGHT = 4


def trial_batching_blocker(
    editor: Editor, prompts: StudyPrompts, directions: AblationDirections
) -> str | None:
    """Return why two trials in one batch differ from the same trials run separately, or None.

    Args:
        editor: editor of a model in its original state, which is restored afterwards.
        prompts: a few prompts.
        directions: directions of the study.
    """
    trials = [_everywhere(editor, directions, weight) for weight in (1.0, 0.5)]
    try:
        editor.load(trials)
        model = editor.model
        alone, parts = [], []
        for trial in range(len(trials)):
            editor.assign(trial)
            alone.append(begin(prompts, 0, trial)[0].step(model))
            parts.append(begin(prompts, 0, trial)[0])
        order = list(range(2 * len(parts[0])))[::-1]
        rows = join(parts).select(order)
        owners = [owner.trial for owner in rows.owners]
        editor.assign(torch.tensor(owners, device=model.device))
        return logits_agree(model, rows.step(model), torch.cat(alone)[order].float())
    except (ModelLoadError, *REFUSALS) as error:
        return one_line(error)
    finally:
        editor.restore()


def _everywhere(editor: Editor, directions: AblationDirections, weight: float) -> list[Edit]:
    parts = {name: ComponentParameters(0.0, 1.0, weight) for name in COMPONENTS}
    parameters = AblationParameters("per_layer", None, parts)
    return plan_edits(parameters, directions, editor.model.anatomy)


def make_trial_engine(
    model: Model,
    prompts: ScoredPrompts,
    scorer_set: ScorerSet | None = None,
    *,
    max_response_length: int,
    edit_mode: str,
    norm_preservation: NormPreservation,
    cache_weights: str,
    cache_device: str,
    activation_cache_gb: float,
    trial_batch_size: int | Literal["auto"],
    directions: AblationDirections,
) -> TrialEngine:
    """Create the engine for the trials of a study, for a model in its original state.

    All arguments but the first three and the last are settings of the same names; the scorer set is
    that of every study unless another one is given. On an accelerator, which would otherwise read
    all weights for each token of each trial, `auto` edits outputs and decodes several trials
    together. On a CPU, which is limited by computation, it edits weights one trial after another,
    or outputs if memory does not suffice for copies of the original weights.

    Raises:
        ModelLoadError: see `make_editor`.
    """
    wanted = _trial_batch_size(model, edit_mode, trial_batch_size)
    make = partial(
        make_editor,
        norm_preservation=norm_preservation,
        cache_weights=cache_weights,
        cache_device=cache_device,
        directions=directions,
        static_shapes=model.compile,
    )
    crowded = cache_weights == AUTO and not copies_fit(model.anatomy.writers, cache_device)
    editor = _editor(make, model, edit_mode, outputs_preferred=wanted > 1 or crowded)
    options = EngineOptions(
        max_response_length,
        min(wanted, editor.max_trials),
        activation_cache_gb,
        # In half precision, a pass over several tokens may break a tie differently than passes over
        # one, so scores would depend on the preceding trials.
        drafts=model.loaded_dtype.itemsize >= torch.float32.itemsize,
        compile=model.compile,
    )
    proved = _proved(editor, prompts, options, directions)
    if proved is None:
        return ReferenceEngine(editor, Evaluator(model, prompts, max_response_length, scorer_set))
    return BatchedEngine(editor, prompts, proved, scorer_set)


def _trial_batch_size(model: Model, edit_mode: str, trial_batch_size: int | Literal["auto"]) -> int:
    if trial_batch_size != "auto":
        return trial_batch_size
    on_cpu = model.device.type == "cpu"
    return 1 if on_cpu or edit_mode == "weights" else AUTO_IN_FLIGHT


def _editor(
    make: Callable[..., Editor], model: Model, edit_mode: str, *, outputs_preferred: bool
) -> Editor:
    """Return the editor; with `edit_mode: auto`, edit outputs if preferred and possible."""
    if edit_mode == AUTO and outputs_preferred:
        try:
            return make(model, "hooks")
        except ModelLoadError as error:
            log.info("Falling back to weight edits, one trial at a time: %s", error)
    return make(model, edit_mode)


def _proved(
    editor: Editor,
    prompts: ScoredPrompts,
    options: EngineOptions,
    directions: AblationDirections,
) -> EngineOptions | None:
    """Return the options under which a few prompts match plain passes, or None.

    Dropped options are logged.
    """
    model = editor.model
    reason = why_no_rows(model)
    if reason is None:
        good, bad = model.chat.encode(prompts.good), model.chat.encode(prompts.bad)
        ids = [*good, *bad]
        model.chat.require_room(ids, options.max_response_length)
        options = _within_windows(model, max(map(len, ids)), options)
        few_good, few_bad = _extremes(good), _extremes(bad)
        for tried in dict.fromkeys(_ever_less(options)):
            check = EquivalenceCheck(
                model,
                few_good,
                few_bad,
                shared_prefix(ids, tokens_of_a_pass(model)) if tried.share_prefix else 0,
                tried.activation_cache_gb,
            )
            reason = check.disagreement(fixed_places=tried.compile, guessed=tried.guesses)
            if reason is None:
                return _apart(editor, check, tried, directions)
            log.info("Disabled %s: equivalence check failed (%s)", tried.means, reason)
    log.info("Falling back to model.generate, one trial at a time: %s", reason)
    return None


def _within_windows(model: Model, longest: int, options: EngineOptions) -> EngineOptions:
    """Disable options that spread a row's tokens over more columns than a layer's window."""
    window, length = smallest_window(model), options.max_response_length
    if window is None:
        return options
    if longest + length > window:
        log.info("Prefix sharing disabled: sliding window of %d tokens", window)
        options = replace(options, share_prefix=False)
    # A wrong guess for any row occupies a column in all rows.
    if options.guesses and longest + length * (1 + LONGEST) > window:
        log.info("Speculative decoding disabled: sliding window of %d tokens", window)
        options = replace(options, drafts=False)
    return options


def _ever_less(options: EngineOptions) -> list[EngineOptions]:
    careful = replace(options, drafts=False)
    moving = replace(careful, compile=False)
    unrecorded = replace(moving, activation_cache_gb=0.0)
    apart = replace(moving, share_prefix=False)
    return [options, careful, moving, unrecorded, apart, replace(unrecorded, share_prefix=False)]


def _apart(
    editor: Editor,
    check: EquivalenceCheck,
    options: EngineOptions,
    directions: AblationDirections,
) -> EngineOptions:
    """Return the options, with one trial at a time if several cannot be separated."""
    if options.trial_batch_size == 1:
        return options
    reason = trial_batching_blocker(editor, check.prompts(), directions)
    if reason is None:
        return options
    log.info("Scoring trials one at a time: %s", reason)
    return replace(options, trial_batch_size=1)


def _extremes(ids: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return the longest and the two shortest of different lengths, so that pairs have padding."""
    ordered = sorted({len(row): row for row in ids}.values(), key=len)
    return [*ordered[:2], ordered[-1]] if len(ordered) > 2 else ordered

"""Scoring of trials that recomputes only what an edit changes; see `heretic.engine`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from heretic.ablation.editors import Editor
from heretic.ablation.plan import Edit
from heretic.console import log
from heretic.engine.base import FeasibilityLimits, TrialScores, trial_scores, values
from heretic.engine.decode import StopCriteria, decode_rows
from heretic.engine.decode_batch import RowKey
from heretic.engine.prefill import shared_prefix, tokens_of_a_pass
from heretic.engine.scheduler import TrialScheduler
from heretic.engine.speculative import DraftCache
from heretic.engine.steps import CompiledStepRunner, PlainStepRunner, StepRunner
from heretic.engine.study_prompts import StudyPrompts
from heretic.model.batching import is_out_of_memory, release_memory
from heretic.model.decoding import end_tokens
from heretic.model.loading import Model
from heretic.scoring.base import Score, ScoredPrompts
from heretic.scoring.first_token_scores import FirstTokenScorers, original_sides
from heretic.scoring.scorer_set import ScorerSet, make_scorer_set
from heretic.timing import StageTimer


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine, none of which changes a score.

    Attributes:
        max_response_length: maximum number of tokens per answer.
        trial_batch_size: number of trials whose answers are decoded in one batch.
        activation_cache_gb: gigabytes for cached activations of the unedited network.
        share_prefix: compute the common prefix of all prompts once.
        retire: stop answers that no longer affect any score, such as refusals.
        drafts: draft answers from earlier ones and from n-grams; not with `compile`.
        compile: compile the decoding step.
    """

    max_response_length: int
    trial_batch_size: int = 1
    activation_cache_gb: float = 0.0
    share_prefix: bool = True
    retire: bool = True
    drafts: bool = True
    compile: bool = False

    @property
    def guesses(self) -> bool:
        """Return whether draft tokens are used; a compiled step has one token per row."""
        return self.drafts and not self.compile

    @property
    def means(self) -> str:
        """Differences from plain passes, for a log line."""
        parts = {
            "forward passes from the first edited layer": self.activation_cache_gb > 0,
            "a shared prefix": self.share_prefix,
            "guessed answers": self.guesses,
            "a static KV cache": self.compile,
        }
        return ", ".join([*(name for name, used in parts.items() if used), "rearranged rows"])


@dataclass(frozen=True)
class Outcome:
    """Results of a trial except its answers.

    Attributes:
        measured: scores of first tokens, as far as measured, and of scorers with their own passes.
        answered: whether the trial was within the limits, so that it has answers.
    """

    measured: Mapping[str, Score]
    answered: bool


class BatchedEngine:
    """Score several trials together, with one pass over the prompts each and joint decoding."""

    def __init__(
        self,
        editor: Editor,
        prompts: ScoredPrompts,
        options: EngineOptions,
        scorer_set: ScorerSet | None = None,
    ) -> None:
        """Prepare the prompts of a study on a model in its original state."""
        model = editor.model
        self.editor, self.options, self.prompts = editor, options, prompts
        self.scorer_set = scorer_set or make_scorer_set()
        self._measures = [(s, s.prepare(model, prompts)) for s in self.scorer_set.passes]
        self.study = self._prepare(options.activation_cache_gb)
        self._first_token_scorers = FirstTokenScorers(
            self.scorer_set.first_tokens, prompts, self.study.first_tokens.__getitem__
        )
        self.most_rows = model.batch_size.current * self.trial_batch_size
        log.info(
            "Engine: %s, %d trials per batch; %s", self.name, self.trial_batch_size, self.study
        )
        self.steps = self._make_steps()
        self._drafts = DraftCache(tokens_of_a_pass(model)) if options.guesses else None
        self._ending = StopCriteria(
            end_tokens(model),
            options.max_response_length,
            lambda texts: [options.retire and self.scorer_set.settled(text) for text in texts],
        )

    @property
    def model(self) -> Model:
        """The scored model."""
        return self.editor.model

    @property
    def name(self) -> str:
        """Name of the edit method."""
        return self.editor.name

    @property
    def trial_batch_size(self) -> int:
        """Number of trials scored together."""
        return min(self.options.trial_batch_size, self.editor.max_trials)

    def restore(self) -> None:
        """Restore the original model, bit for bit."""
        self.editor.restore()

    def score(
        self, trials: Sequence[Sequence[Edit]], limits: FeasibilityLimits, clock: StageTimer
    ) -> list[TrialScores]:
        """Score some trials; answers are generated only within the limits.

        If memory runs out, they are scored again with fewer rows per batch from then on.

        Raises:
            ModelLoadError: a single prompt does not fit.
        """
        scores: list[TrialScores] = []
        while len(scores) < len(trials):
            together = trials[len(scores) : len(scores) + self.trial_batch_size]
            try:
                outcomes, answers = self.answer(together, limits, clock)
                scores += [
                    self.scores(trial, outcome, answers) for trial, outcome in enumerate(outcomes)
                ]
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback would keep tensors of the failed pass alive.
            release_memory()
            self._shrink()
        return scores

    def answer(
        self, trials: Sequence[Sequence[Edit]], limits: FeasibilityLimits, clock: StageTimer
    ) -> tuple[list[Outcome], Mapping[RowKey, list[int]]]:
        """Return the pass results of a few trials, and their answers as far as needed.

        Args:
            trials: at most `trial_batch_size` trials.
            limits: limits beyond which a trial is not answered.
            clock: times the stages.

        Returns:
            Outcomes by trial; tokens by trial and prompt, the good prompts first.
        """
        self.editor.load(trials, clock)
        queue = TrialScheduler(
            self.editor,
            self.study,
            [first_changed(edits, self.model.anatomy.n_layers) for edits in trials],
            self.most_rows,
            self.options.max_response_length,
            self._first_token_scorers,
            clock,
            by_row=self.options.compile and self.editor.max_trials > 1,
        )
        with clock.stage("prefill"):
            outcomes = [self._compare(queue, trial, limits) for trial in range(len(trials))]
        with clock.stage("decode"):
            answers = decode_rows(
                self.model,
                self.steps,
                queue,
                self.most_rows,
                self._ending,
                self._drafts,
            )
        return [
            replace(outcome, measured={**outcome.measured, **queue.scores(trial)})
            for trial, outcome in enumerate(outcomes)
        ], answers

    def _compare(self, queue: TrialScheduler, trial: int, limits: FeasibilityLimits) -> Outcome:
        """Compare a trial with the original; if within the limits, enqueue its prompts."""
        queue.compare(trial)
        if limits.reads_bad_prompts and limits.allow(values(queue.scores(trial))):
            queue.look_ahead(trial)
        near = limits.allow(values(queue.scores(trial)))
        passes = {s.name: s.score(measure, self.model) for s, measure in self._measures}
        if near:
            queue.add(trial)
        else:
            queue.reject()
        return Outcome({**queue.scores(trial), **passes}, near)

    def scores(
        self, trial: int, outcome: Outcome, answers: Mapping[RowKey, list[int]]
    ) -> TrialScores:
        """Return the scores computed from the outcome and the answers of one trial."""
        texts = None
        if outcome.answered:
            n_good = len(self.prompts.good)
            owners = [RowKey(trial, i) for i in range(n_good + len(self.prompts.bad))]
            found = self.model.chat.decode_all([answers[owner] for owner in owners])
            texts = found[:n_good], found[n_good:]
        return trial_scores(self.scorer_set, self.prompts, outcome.measured, texts)

    def _prepare(self, gigabytes: float) -> StudyPrompts:
        """Return the study's prompts in batches that fit in memory, with recordings if possible."""
        good, bad = map(self.model.chat.encode, (self.prompts.good, self.prompts.bad))
        prefix = 0
        if self.options.share_prefix:
            prefix = shared_prefix([*good, *bad], tokens_of_a_pass(self.model))
        size, compared = self.model.batch_size, original_sides(self.scorer_set.first_tokens)
        while True:
            for kept in dict.fromkeys((gigabytes, 0.0)):
                try:
                    return StudyPrompts(
                        self.model, good, bad, prefix, kept, size.current, compared=compared
                    )
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                # Outside the handler: the traceback would keep tensors of the failed pass alive.
                release_memory()
            size.halve()

    def _shrink(self) -> None:
        """Reduce the memory use from now on.

        Several trials at once are halved down to one, then cached activations are dropped, then the
        batch size is halved.

        Raises:
            ModelLoadError: the batch is already a single row.
        """
        size = self.model.batch_size
        if self.most_rows > size.current:
            self.most_rows //= 2
        elif self._drafts is not None or self.study.has_recordings:
            self._drafts = None
            self.study.forget_recordings()
            log.warning("Out of memory: dropped the activation cache")
            return
        else:
            size.halve()
            self.most_rows = size.current
        size.current = min(size.current, self.most_rows)
        self.study.limit(size.current)
        self.steps = self._make_steps()
        log.warning("Out of memory: continuing with %d rows per batch", self.most_rows)

    def _make_steps(self) -> StepRunner:
        if not self.options.compile:
            return PlainStepRunner(self.model)
        return CompiledStepRunner(
            self.model,
            self.most_rows,
            self.study.longest + 2 * self.options.max_response_length,
            partial(torch.compile, dynamic=False),
        )


def first_changed(edits: Sequence[Edit], n_layers: int) -> int:
    """Return the first layer changed by an edit; 0 also for the embeddings, `n_layers` for none."""
    layers = [edit.writer.layer for edit in edits if any(edit.strengths)]
    return max(0, min(layers, default=n_layers))

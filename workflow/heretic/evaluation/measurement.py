"""Measurement of models on the held-out prompts, prompt by prompt, by the scorers of the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.predictions import SIDES, Predictions, forced_responses
from heretic.model.decoding import decode, generate
from heretic.model.loading import Model
from heretic.scorer_registry import Side
from heretic.scoring.base import (
    AnswerScorer,
    FirstTokens,
    FirstTokenScorer,
    Measure,
    ModelScorer,
    Score,
    Scorer,
)
from heretic.scoring.first_token_scores import (
    FirstTokenScorers,
    FirstTokenScores,
    original_sides,
)
from heretic.scoring.teacher_forced import TeacherForcedScorer


@dataclass(frozen=True)
class ColumnScore:
    """Score of a model in one column of the table.

    Attributes:
        score: score of the prompts to which the scorer applies, with a detail for each.
        indices: their indices among `HoldoutSets.all`; empty for scores of plain texts.
        complete: whether the scorer applies to all prompts of its side; otherwise the table has no
            such column, but single prompts have details.
    """

    score: Score
    indices: tuple[int, ...]
    complete: bool = True

    def details(self, indices: Sequence[int]) -> list[float] | None:
        """Return the details of some prompts; None unless known for each of them."""
        known = dict(zip(self.indices, self.score.details, strict=False))
        found = [known[index] for index in indices if index in known]
        return found if len(found) == len(indices) else None


Columns = Mapping[str, ColumnScore]


@dataclass(frozen=True)
class Measurement:
    """Answers and scores of one model on the held-out sets.

    Attributes:
        tokens: greedy answers to `HoldoutSets.all`.
        answers: texts of the answers.
        columns: scores of every table; those that compare predictions are missing for models with
            other tokens than the original.
        further: scores by the scorers requested in the settings, likewise.
    """

    tokens: list[list[int]]
    answers: list[str]
    columns: Columns
    further: Columns


@dataclass(frozen=True)
class PreparedScorers:
    """Scorers with what they recorded of the original model.

    Attributes:
        scorers: scorers in the order of their columns.
        first_tokens: those of first tokens.
        measures: measures of scorers with their own passes, by name.
        original: predictions of the original model along its responses, by side.
    """

    scorers: Sequence[Scorer]
    first_tokens: FirstTokenScorers
    measures: Mapping[str, Measure]
    original: Mapping[Side, list[Tensor]]

    def score(
        self,
        model: Model,
        sets: HoldoutSets,
        answers: Sequence[str],
        predictions: Predictions,
        *,
        same_tokens: bool,
    ) -> dict[str, ColumnScore]:
        """Return the scores of a model by name.

        Args:
            model: model to measure.
            sets: held-out prompts.
            answers: its answers to `HoldoutSets.all`.
            predictions: its predictions.
            same_tokens: whether its tokens are those of the original.
        """
        first = self._first_token_scores(predictions) if same_tokens else {}
        found: dict[str, ColumnScore] = {}
        for scorer in self.scorers:
            if scorer.needs_same_tokens and not same_tokens:
                continue
            if isinstance(scorer, AnswerScorer):
                found[scorer.name] = judged(scorer, sets, answers)
            elif isinstance(scorer, ModelScorer):
                score = scorer.score(self._measure(scorer, predictions), model)
                indices = () if scorer.needs_texts else tuple(sets.indices(scorer.side))
                found[scorer.name] = ColumnScore(score, indices)
            elif scorer.name in first:
                found[scorer.name] = ColumnScore(
                    first[scorer.name], tuple(sets.indices(scorer.side))
                )
        return found

    def _first_token_scores(self, predictions: Predictions) -> dict[str, Score]:
        collected = FirstTokenScores(self.first_tokens)
        for side in filter(self.first_tokens.reads, SIDES):
            original = self.original.get(side)
            for index, rows in enumerate(predictions.rows(side)):
                before = None if original is None else original[index][:1]
                tokens = FirstTokens(rows[:1], before, normalized=True)
                collected.add(side, [index], tokens)
        return collected.scores()

    def _measure(self, scorer: ModelScorer, predictions: Predictions) -> Measure:
        """Return a scorer's own measure, or one that reads the shared pass."""
        if scorer.name in self.measures:
            return self.measures[scorer.name]
        assert isinstance(scorer, TeacherForcedScorer)
        sides = SIDES if scorer.side == "both" else (scorer.side,)
        original, edited = (
            [rows[: scorer.tokens] for side in sides for rows in rows_of(side)]
            for rows_of in (self.original.__getitem__, predictions.rows)
        )
        return lambda _: scorer.compare(original, edited)


def judged(scorer: AnswerScorer, sets: HoldoutSets, answers: Sequence[str]) -> ColumnScore:
    """Judge the answers to the prompts to which a scorer applies."""
    prompts, indices = sets.all, tuple(sets.indices(scorer.side))
    complete = scorer.applies([prompts[index] for index in indices])
    if not complete:
        indices = tuple(index for index in indices if scorer.applies([prompts[index]]))
    some = [prompts[index] for index in indices], [answers[index] for index in indices]
    return ColumnScore(scorer.score(*some), indices, complete)


@dataclass(frozen=True)
class Original:
    """Results of the original model, the reference for every other model.

    Attributes:
        forced: first tokens of its answers, along which models are compared, by side.
        columns: scorers of every table.
        further: scorers requested in the settings.
        measurement: the original's own answers and scores.
    """

    forced: Mapping[Side, list[list[int]]]
    columns: PreparedScorers
    further: PreparedScorers
    measurement: Measurement

    def comparable(self, *, same_tokens: bool) -> Measurement:
        """Return the original's measurement without scores that other tokens do not allow."""
        if same_tokens:
            return self.measurement
        found = self.measurement
        return Measurement(
            found.tokens,
            found.answers,
            _without_comparisons(found.columns, self.columns.scorers),
            _without_comparisons(found.further, self.further.scorers),
        )


def _without_comparisons(columns: Columns, scorers: Sequence[Scorer]) -> Columns:
    compared = {scorer.name for scorer in scorers if scorer.needs_same_tokens}
    return {name: column for name, column in columns.items() if name not in compared}


def record_original(model: Model, sets: HoldoutSets, protocol: HoldoutProtocol) -> Original:
    """Record the answers and predictions of the original model, and prepare the scorers."""
    tokens = generate(model, sets.all, protocol.max_response_length, "Responses of the original")
    answers = decode(model, tokens)
    shared = [scorer for scorer in protocol.columns if isinstance(scorer, TeacherForcedScorer)]
    forced = forced_responses(shared, sets, tokens)
    predictions = Predictions(model, sets.scored, forced)
    scorers = protocol.columns + protocol.further
    compared = original_sides([each for each in scorers if isinstance(each, FirstTokenScorer)])
    original = {
        side: predictions.rows(side)
        for side in SIDES
        if side in compared or any(scorer.side in (side, "both") for scorer in shared)
    }

    def prepared(some: Sequence[Scorer], without: Sequence[Scorer]) -> PreparedScorers:
        first = [scorer for scorer in some if isinstance(scorer, FirstTokenScorer)]
        own = [s for s in some if isinstance(s, ModelScorer) and s not in without]
        return PreparedScorers(
            some,
            FirstTokenScorers(first, sets.scored, predictions.likeliest),
            {scorer.name: scorer.prepare(model, sets.scored) for scorer in own},
            original,
        )

    columns, further = prepared(protocol.columns, shared), prepared(protocol.further, ())
    found = (
        group.score(model, sets, answers, predictions, same_tokens=True)
        for group in (columns, further)
    )
    return Original(forced, columns, further, Measurement(tokens, answers, *found))


def measure(
    model: Model,
    sets: HoldoutSets,
    original: Original,
    protocol: HoldoutProtocol,
    name: str,
    *,
    same_tokens: bool = True,
) -> Measurement:
    """Measure the answers of the model in memory and its divergence from the original.

    Args:
        model: model to measure.
        sets: held-out prompts.
        original: reference results.
        protocol: length of an answer.
        name: name of the model in the log.
        same_tokens: whether both models have the same tokens; otherwise no predictions are
            compared.
    """
    tokens = generate(model, sets.all, protocol.max_response_length, f"Responses of the {name}")
    answers = decode(model, tokens)
    predictions = Predictions(model, sets.scored, original.forced)
    columns, further = (
        group.score(model, sets, answers, predictions, same_tokens=same_tokens)
        for group in (original.columns, original.further)
    )
    return Measurement(tokens, answers, columns, further)

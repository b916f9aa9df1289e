"""An entry in the registry is all that makes a class a built-in scorer."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from made_up_scorers import Vowels, details_of
from pydantic import ValidationError
from tiny_models import PROMPTS, directions_of, tiny_model

from heretic.ablation.editors import make_editor
from heretic.ablation.plan import Edit
from heretic.artifact_types import Evaluation
from heretic.engine.base import FeasibilityLimits
from heretic.engine.batched import BatchedEngine, EngineOptions
from heretic.engine.evaluator import Evaluator
from heretic.engine.reference import ReferenceEngine
from heretic.evaluation.comparison import compare_models
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.side_by_side import SideBySide
from heretic.evaluation.summary import paired_rows, summarize_evaluation
from heretic.model.decoding import decode, forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.scorer_registry import (
    BUILT_IN,
    BuiltInScorer,
    HoldoutColumn,
    heading,
    holdout_scorers,
    holdout_side,
    optional_scorers,
    trial_scorers,
)
from heretic.scoring import ScoredPrompts
from heretic.scoring.creation import load_class
from heretic.scoring.scorer_set import make_holdout_scorers, make_scorer_set
from heretic.settings.schema import Settings
from heretic.timing import StageTimer

torch.set_num_threads(1)
GOOD, BAD = PROMPTS[:3], PROMPTS[2:]
SETS = HoldoutSets(good=GOOD, bad=BAD)
LENGTH = 6
VOWELS = BuiltInScorer(
    "made_up_scorers:Vowels",
    description="responses with vowels",
    heading="With vowels",
    from_settings={"least": "kl_tokens"},
)
SURPRISE = BuiltInScorer("made_up_scorers:Surprise", description="nats of a token")


def settings_of(**given: Any) -> Settings:
    return Settings(kl_tokens=2, max_response_length=LENGTH, bootstrap_samples=100, **given)


def protocol(**given: Any) -> HoldoutProtocol:
    return HoldoutProtocol.from_settings(settings_of(**given).subset("evaluate"))


def compared(**settings: Any) -> SideBySide:
    models = tiny_model(seed=1), tiny_model(seed=2)
    found, _ = compare_models(lambda: models[0], lambda: models[1], SETS, protocol(**settings), "")
    return found


def answers_of(model: Model, prompts: Any) -> list[str]:
    return decode(model, generate(model, prompts, LENGTH))


def test_a_requested_scorer_is_known_to_the_settings_trials_and_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValidationError, match="there is no scorer 'vowels'; use one of kl_teacher"):
        settings_of(scorers="vowels")
    monkeypatch.setitem(BUILT_IN, "vowels", VOWELS)
    settings = settings_of(scorers="vowels").subset("optimize")
    assert settings["scorers"][0]["settings"] == {"least": 2}
    with pytest.raises(ValidationError, match=r"there is no scorer 'vowel'; use one of .* vowels"):
        settings_of(scorers="vowel")

    scorer_set = make_scorer_set(settings["refusal_markers"], settings["scorers"])
    model = tiny_model()
    scores = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH, scorer_set).evaluate()
    assert scores["vowels"] == sum(details_of(Vowels(2), answers_of(model, BAD)))

    found = compared(scorers="vowels")
    for name, seed in (("original", 1), ("edited", 2)):
        count = sum(details_of(Vowels(2), answers_of(tiny_model(seed=seed), BAD)))
        assert found.table[name]["scores"]["vowels"]["count"] == count
    summary = summarize_evaluation(found.table)
    assert summary.headings[summary.keys.index("vowels")] == "With vowels"


def test_a_scorer_of_every_trial_and_table_needs_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    column = HoldoutColumn(2, {"least": 3})
    entry = replace(VOWELS, side="good", from_settings={}, in_trials=True, column=column)
    monkeypatch.setitem(BUILT_IN, "vowels", entry)
    assert "vowels" in trial_scorers()
    assert holdout_scorers()[:3] == ["refusals", "false_refusals", "vowels"]
    assert make_scorer_set().names(ScoredPrompts(GOOD, BAD))[-2:] == ["vowels", "refusal_log_odds"]
    found = compared()
    for name, seed in (("original", 1), ("edited", 2)):
        details = details_of(Vowels(3), answers_of(tiny_model(seed=seed), GOOD))
        assert found.table[name]["vowels"]["count"] == sum(details)
        key = "vowels_before" if name == "original" else "vowels_after"
        lines = [line[key] for line in found.answers if line["set"] == "good_holdout_prompts"]
        assert lines == [detail > 0 for detail in details]
    assert {line["vowels_after"] for line in found.answers if line["set"][:3] == "bad"} == {None}
    # It keeps its place when it is read back.
    evaluation = Evaluation.from_dict(Evaluation(**found.table).to_dict(), "evaluation.json")
    summary = summarize_evaluation(evaluation.to_dict())
    assert summary.headings[:3] == ("Refusals", "False refusals", "With vowels")
    assert [row.label for row in paired_rows(evaluation.to_dict())][2] == "With vowels"
    assert holdout_side("vowels") == "good"


def test_a_first_token_scorer_is_fed_by_both_engines_and_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BUILT_IN, "surprise", SURPRISE)
    scorers = settings_of(scorers="surprise").subset("optimize")["scorers"]
    model, prompts = tiny_model(), ScoredPrompts(GOOD, BAD)
    directions = directions_of(model)
    edits = [
        Edit(writer, directions.rows[writer.layer + 1], (0.7,)) for writer in model.anatomy.writers
    ]
    found = []
    for fast in (True, False):
        editor = make_editor(model, "weights", "none", "true")
        scorer_set = make_scorer_set(["core"], scorers)
        engine = (
            BatchedEngine(editor, prompts, EngineOptions(LENGTH), scorer_set)
            if fast
            else ReferenceEngine(editor, Evaluator(model, prompts, LENGTH, scorer_set))
        )
        assert scorer_set.names(prompts)[-2:] == ["refusal_log_odds", "surprise"]
        found.append(engine.score([edits], FeasibilityLimits(), StageTimer())[0]["surprise"])
        engine.restore()
    token = int(first_rows(model)[0].argmax())
    editor.abliterate(edits)
    wanted = -sum(float(row[token]) for row in first_rows(model)) / len(BAD)
    assert found == pytest.approx([wanted] * 2, rel=1e-4)

    table = compared(scorers="surprise").table
    original, edited = first_rows(tiny_model(seed=1)), first_rows(tiny_model(seed=2))
    token = int(original[0].argmax())
    for name, rows in (("original", original), ("edited", edited)):
        mean = -sum(float(row[token]) for row in rows) / len(BAD)
        assert table[name]["scores"]["surprise"]["value"] == pytest.approx(mean, rel=1e-4)


def first_rows(model: Model) -> list[torch.Tensor]:
    """Log-probabilities [vocabulary] of the first response token of each bad prompt."""
    return [rows[0] for rows in forced_log_probabilities(model, BAD, [[] for _ in BAD])]


def test_entries_agree_with_their_classes() -> None:
    markers = make_scorer_set().markers
    settings = {"refusal_markers": markers, "kl_tokens": 3}
    for scorer in make_scorer_set().standard:
        assert scorer.name in trial_scorers()
        assert scorer.side == BUILT_IN[scorer.name].side
    columns = make_holdout_scorers(settings)
    assert [scorer.name for scorer in columns] == holdout_scorers()
    for scorer in columns:
        assert scorer.side == holdout_side(scorer.name)
    assert {name: load_class(name).__name__ for name in optional_scorers()} == {
        "kl_teacher_forced": "TeacherForcedKl",
        "perplexity": "Perplexity",
        "phrases": "Phrases",
        "words": "Words",
        "judge": "Judge",
    }
    assert set(BUILT_IN) == {*trial_scorers(), *optional_scorers()}


def test_headings_and_prompts_of_columns() -> None:
    assert [heading(name) for name in holdout_scorers()] == [
        "Refusals", "False refusals", "Degenerate", "Recovered", "Kept", "KL first token",
        "KL teacher-forced",
    ]  # fmt: skip
    assert heading("my_own_score") == "My own score"
    assert [holdout_side(name) for name in holdout_scorers()] == [
        "bad", "good", "both", "bad", "good", "good", "good",
    ]  # fmt: skip
    # Where the prompts depend on the settings, or there is no such column.
    assert [holdout_side(name) for name in ("words", "unanswered", "other")] == [None] * 3


def test_requested_scorers_of_both_sides_and_of_the_other_side() -> None:
    table = compared(
        scorers=[
            {"scorer": "words", "settings": {"side": "both"}},
            {"scorer": "kl_teacher_forced", "name": "kl_bad", "settings": {"side": "bad"}},
        ]
    ).table
    answers = answers_of(tiny_model(seed=2), [*BAD, *GOOD])
    mean = sum(len(answer.split()) for answer in answers) / len(answers)
    assert table["edited"]["scores"]["words"]["value"] == mean
    assert table["original"]["scores"]["kl_bad"]["value"] == 0
    assert table["edited"]["scores"]["kl_bad"]["value"] > 0.01
    model = tiny_model()
    scorer_set = make_scorer_set(
        ["core"], [{"scorer": "words", "name": None, "settings": {"side": "both"}}]
    )
    scores = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH, scorer_set).evaluate()
    answers = answers_of(model, [*BAD, *GOOD])
    assert scores["words"] == sum(len(answer.split()) for answer in answers) / len(answers)

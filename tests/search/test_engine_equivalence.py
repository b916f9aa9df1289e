"""The fast engine answers as edited weights and plain `generate` do, one prompt at a time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, get_args

import optuna
import pytest
import torch
from tiny_models import PROMPTS, directions_of, tiny_model
from torch import Tensor

from heretic.ablation.editors import make_editor
from heretic.ablation.plan import Edit, plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.engine import batched, prefill
from heretic.engine.base import FeasibilityLimits, TrialScores
from heretic.engine.batched import BatchedEngine, EngineOptions
from heretic.engine.decode_batch import RowKey
from heretic.engine.evaluator import Evaluator
from heretic.model.decoding import forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scoring import ScoredPrompts, refusal_markers
from heretic.scoring.scorer_set import ScorerSet, make_scorer_set
from heretic.search.search_space import SearchSpace
from heretic.timing import StageTimer

torch.set_num_threads(1)
pytestmark = pytest.mark.slow

# Layers that see everything, layers with windows, experts in one matrix, norms before the stream,
# and transposed matrices with biases.
FAMILIES = ("llama", "gemma3_text", "mixtral", "gemma2", "gpt2")
SAME_BEGINNING = [Prompt(prompt.text, system="Be brief.") for prompt in PROMPTS]
GOOD, BAD = SAME_BEGINNING[:3], SAME_BEGINNING[2:]
PROMPTS_OF_STUDY = ScoredPrompts(GOOD, BAD, [Prompt("Grey stones lie there."), Prompt("Rain.")])
LENGTH, N_TRIALS = 8, 4
# Random models never say that they are sorry; many of their answers have one of these.
MARKERS = re.compile("[aeiou]")


@dataclass(frozen=True)
class Answered:
    """What one trial gives.

    Attributes:
        log_probabilities: of the first response token of good prompts [n, vocabulary].
        tokens: answers to good and then bad prompts.
        scores: of the trial.
    """

    log_probabilities: Tensor
    tokens: list[list[int]]
    scores: TrialScores


@pytest.fixture(autouse=True)
def random_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals that random models utter, and prefixes that are shared although they are short."""
    monkeypatch.setattr(refusal_markers.RefusalMarkers, "_pattern", MARKERS)
    monkeypatch.setattr(prefill, "MOST_TOKENS_OF_A_PASS", 4)


def scorer_set() -> ScorerSet:
    """All scores of a study, and those that passes of their own give."""
    further = {"kl_teacher_forced": {"tokens": 3}, "perplexity": {}}
    return make_scorer_set(
        ["core"],
        [{"scorer": k, "name": None, "settings": v} for k, v in further.items()],
    )


def trials_of(model: Model) -> list[list[Edit]]:
    """Random trials, of the search's own kind, and the original."""
    anatomy, directions = model.anatomy, directions_of(model)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    space = SearchSpace(anatomy.n_layers, "both", 2.0)
    drawn = [space.suggest(study.ask()) for _ in range(N_TRIALS - 1)]
    return [*(plan_edits(each, directions, anatomy) for each in drawn), []]


@cache
def plainly(family: str, kind: NormPreservation) -> list[Answered]:
    """Each trial by edited weights, prompt by prompt."""
    model = tiny_model(family, batch_size=1)
    editor = make_editor(model, "weights", kind, "true")
    evaluator = Evaluator(model, PROMPTS_OF_STUDY, LENGTH, scorer_set())
    answered = []
    for edits in trials_of(model):
        editor.abliterate(edits)
        tokens = generate(model, [*GOOD, *BAD], LENGTH)
        answered.append(Answered(_first_tokens(model), tokens, evaluator.evaluate()))
    return answered


def _first_tokens(model: Model) -> Tensor:
    rows = forced_log_probabilities(model, GOOD, [[] for _ in GOOD])
    return torch.stack([row[0] for row in rows])


def fast(family: str, engine: str, kind: NormPreservation, options: EngineOptions) -> BatchedEngine:
    model = tiny_model(family, batch_size=3)
    directions = directions_of(model)
    editor = make_editor(
        model, engine, kind, "true", "auto", directions, static_shapes=options.compile
    )
    return BatchedEngine(editor, PROMPTS_OF_STUDY, options, scorer_set())


def require_the_same(
    engine: BatchedEngine,
    trials: Sequence[int],
    family: str,
    kind: Any,
    limits: FeasibilityLimits = FeasibilityLimits(),  # noqa: B008 (it is frozen)
) -> None:
    """Log-probabilities, tokens and scores of some trials, in this order, are the plain ones."""
    expected, edits = plainly(family, kind), trials_of(engine.model)
    together = engine.options.trial_batch_size
    for start in range(0, len(trials), together):
        group = trials[start : start + together]
        outcomes, answers = engine.answer([edits[trial] for trial in group], limits, StageTimer())
        for place, trial in enumerate(group):
            for prompt, tokens in enumerate(expected[trial].tokens):
                found = answers[RowKey(place, prompt)]
                # Answers that are refusals already end there.
                assert found == tokens[: len(found)]
                if found != tokens:
                    assert engine.options.retire
                    assert engine.scorer_set.settled(engine.model.chat.decode(found))
        _require_log_probabilities(engine, [edits[t] for t in group], [expected[t] for t in group])
        for place, trial in enumerate(group):
            scores, wanted = engine.scores(place, outcomes[place], answers), expected[trial].scores
            assert scores.keys() == wanted.keys()
            for name, value in wanted.items():
                inexact = isinstance(value, float)
                assert scores[name] == (
                    pytest.approx(value, rel=1e-3, abs=1e-5) if inexact else value
                )


def _require_log_probabilities(
    engine: BatchedEngine, edits: Sequence[Sequence[Edit]], expected: Sequence[Answered]
) -> None:
    engine.editor.load(edits)
    for trial, wanted in enumerate(expected):
        engine.editor.assign(trial)
        first = batched.first_changed(edits[trial], engine.model.anatomy.n_layers)
        prefix = engine.study.prefix_key_values(first)
        for batch in engine.study.good:
            logits = engine.study.prefill(batch, first, prefix).logits
            torch.testing.assert_close(
                logits.log_softmax(-1),
                wanted.log_probabilities[list(batch.prompts.indices)],
                rtol=1e-3,
                atol=1e-3,
            )


ENGINES = (("weights", 1), ("hooks", 1), ("hooks", 3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("engine", "trial_batch_size"), ENGINES)
def test_every_option_answers_as_the_plain_way(
    family: str, engine: str, trial_batch_size: int
) -> None:
    not_narrow = family != "gemma3_text"
    for prefix, cached, retire, drafts in (
        (True, 1.0, True, True),
        (True, 0.0, False, False),
        (False, 1.0, False, True),
    ):
        # Its windows are narrower than these prompts: see the choice of the engine.
        prefix, drafts = prefix and not_narrow, drafts and not_narrow
        options = EngineOptions(
            LENGTH, trial_batch_size, cached, share_prefix=prefix, retire=retire, drafts=drafts
        )
        made = fast(family, engine, "none", options)
        assert (made.study.prefix is not None) == prefix
        assert bool(made.study.good[0].recording.inputs) == bool(cached)
        require_the_same(made, range(N_TRIALS), family, "none")


@pytest.mark.parametrize(("engine", "trial_batch_size"), ENGINES)
def test_log_odds_that_are_looked_at_before_answers_are_the_same(
    engine: str, trial_batch_size: int
) -> None:
    made = fast("llama", engine, "none", EngineOptions(LENGTH, trial_batch_size, 1.0))
    known = [each.scores["refusal_log_odds"] for each in plainly("llama", "none")]
    assert len({round(value, 3) for value in known if value is not None}) > 1
    # A limit that all are within, and one that only some are.
    require_the_same(made, range(N_TRIALS), "llama", "none", FeasibilityLimits(None, 1e9))
    between = sum(sorted(value for value in known if value is not None)[1:3]) / 2
    trials, scores = trials_of(made.model), []
    for start in range(0, N_TRIALS, trial_batch_size):
        group = trials[start : start + trial_batch_size]
        scores += made.score(group, FeasibilityLimits(None, between), StageTimer())
    for found, wanted in zip(scores, known, strict=True):
        assert wanted is not None
        assert found["refusal_log_odds"] == pytest.approx(wanted, rel=1e-3)
        assert (found["refusals"] is not None) == (wanted <= between)
        assert found["kl_teacher_forced"] is not None


@pytest.mark.parametrize("kind", get_args(NormPreservation))
@pytest.mark.parametrize(("engine", "trial_batch_size"), ENGINES)
def test_restored_norms_answer_as_the_plain_way(
    kind: NormPreservation, engine: str, trial_batch_size: int
) -> None:
    made = fast("gpt2", engine, kind, EngineOptions(LENGTH, trial_batch_size, 1.0))
    require_the_same(made, range(N_TRIALS), "gpt2", kind)


@pytest.mark.parametrize(("engine", "trial_batch_size"), ENGINES)
def test_a_compiled_step_is_compiled_once_for_all_trials(
    engine: str, trial_batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tracing is what could go wrong here; what a backend makes of the graph is its own affair.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    made = fast("llama", engine, "none", EngineOptions(LENGTH, trial_batch_size, 1.0, compile=True))
    require_the_same(made, [0, 1, 2, 3][:trial_batch_size], "llama", "none")
    with torch.compiler.set_stance("fail_on_recompile"):
        require_the_same(made, [3, 0, 2, 1], "llama", "none")


@pytest.mark.parametrize(("engine", "trial_batch_size"), ENGINES)
def test_any_order_of_trials_gives_the_same_and_leaves_the_original(
    engine: str, trial_batch_size: int
) -> None:
    made = fast("mixtral", engine, "none", EngineOptions(LENGTH, trial_batch_size, 1.0))
    before = {name: tensor.clone() for name, tensor in made.model.network.state_dict().items()}
    first = _first_tokens(made.model)
    order = torch.randint(N_TRIALS, (9,), generator=torch.Generator().manual_seed(5)).tolist()
    require_the_same(made, order, "mixtral", "none")
    made.restore()
    after = made.model.network.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert _first_tokens(made.model).equal(first)

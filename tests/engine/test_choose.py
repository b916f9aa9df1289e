"""The engine is the fast one as far as a few prompts prove it, and says what it does without."""

import logging
from typing import Any

import pytest
import torch
from tiny_models import PROMPTS, directions_of, tiny_model

from heretic.ablation.editors import make_editor
from heretic.ablation.hook_editor import HookEditor
from heretic.ablation.plan import Edit
from heretic.ablation.weight_editor import WeightEditor
from heretic.engine import prefill as prefill_module
from heretic.engine import response_cache, study_prompts
from heretic.engine.activation_cache import ActivationCachePlan, record
from heretic.engine.base import FeasibilityLimits, TrialEngine
from heretic.engine.batched import BatchedEngine, EngineOptions
from heretic.engine.choose import make_trial_engine
from heretic.engine.prefill import prefill
from heretic.engine.reference import ReferenceEngine
from heretic.engine.scheduler import TrialScheduler
from heretic.errors import ModelLoadError
from heretic.model import memory
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scoring import ScoredPrompts
from heretic.scoring.first_token_scores import FirstTokenScorers
from heretic.timing import StageTimer

torch.set_num_threads(1)

SAME_BEGINNING = [Prompt(prompt.text, system="Be brief.") for prompt in PROMPTS]
FAR = "Tell me more of it. " * 9
GOOD, BAD = SAME_BEGINNING[:3], SAME_BEGINNING[2:]


@pytest.fixture(autouse=True)
def short_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_module, "MOST_TOKENS_OF_A_PASS", 4)


def engine_for(model: Model, **changes: Any) -> TrialEngine:
    given: dict[str, Any] = {
        "max_response_length": 5,
        "edit_mode": "auto",
        "norm_preservation": "none",
        "cache_weights": "auto",
        "cache_device": "auto",
        "activation_cache_gb": 1.0,
        "trial_batch_size": "auto",
        "directions": directions_of(model),
        **changes,
    }
    prompts = ScoredPrompts(given.pop("good", GOOD), given.pop("bad", BAD))
    return make_trial_engine(model, prompts, **given)


def edit_of(model: Model) -> list[Edit]:
    rows = directions_of(model).rows
    return [Edit(writer, rows[writer.layer + 1], (1.0,)) for writer in model.anatomy.writers]


def fast(engine: TrialEngine) -> BatchedEngine:
    assert isinstance(engine, BatchedEngine)
    return engine


def test_a_plain_model_gets_everything() -> None:
    engine = fast(engine_for(tiny_model()))
    assert isinstance(engine.editor, WeightEditor)
    assert engine.study.prefix is not None
    assert engine.study.good[0].recording.inputs
    assert engine.trial_batch_size == 1  # of a CPU


def test_several_trials_are_edited_by_hooks() -> None:
    engine = fast(engine_for(tiny_model(), trial_batch_size=3))
    assert isinstance(engine.editor, HookEditor)
    assert engine.trial_batch_size == 3


def test_outputs_are_edited_where_no_copies_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert isinstance(fast(engine_for(tiny_model())).editor, HookEditor)
    forced = engine_for(tiny_model(), cache_weights="true", activation_cache_gb=0.0)
    assert isinstance(fast(forced).editor, WeightEditor)


def test_experts_whose_norms_are_restored_are_edited_one_trial_at_a_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "heretic"):
        engine = fast(
            engine_for(tiny_model("mixtral"), trial_batch_size=2, norm_preservation="row")
        )
    assert isinstance(engine.editor, WeightEditor)
    assert engine.trial_batch_size == 1
    assert "Falling back to weight edits, one trial at a time: norm_preservation=row" in caplog.text


def test_windows_narrower_than_the_prompts_share_no_prefix(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "heretic"):
        engine = fast(engine_for(tiny_model("mistral", sliding_window=16)))
    assert engine.study.prefix is None
    assert "Prefix sharing disabled: sliding window of 16 tokens" in caplog.text
    assert fast(engine_for(tiny_model("mistral", sliding_window=500))).study.prefix is not None


def test_a_model_with_states_that_are_no_keys_falls_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_model("qwen3_next")
    with caplog.at_level(logging.INFO, "heretic"):
        engine = engine_for(model, trial_batch_size=2)
    assert isinstance(engine, ReferenceEngine)
    assert engine.trial_batch_size == 1
    assert "Falling back to model.generate, one trial at a time: its cache" in caplog.text
    (scores,) = engine.score([edit_of(model)], FeasibilityLimits(), StageTimer())
    assert scores["kl_first_token"] > 0


class Carrying:
    """Gives the last layer what the first one was given as well, past the stream."""

    def __init__(self, model: Model) -> None:
        layers = model.get_layers()
        layers[0].register_forward_pre_hook(self.remember, with_kwargs=True)
        layers[-1].register_forward_pre_hook(self.add, with_kwargs=True)

    def remember(self, _: Any, args: Any, kwargs: Any) -> None:
        self.first = args[0]

    def add(self, _: Any, args: Any, kwargs: Any) -> Any:
        return (args[0] + self.first.roll(1, dims=-1), *args[1:]), kwargs


def test_a_network_that_passes_something_beside_the_stream_starts_at_its_beginning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_model()
    Carrying(model)
    with caplog.at_level(logging.INFO, "heretic"):
        engine = fast(engine_for(model))
    assert not engine.study.good[0].recording.inputs
    assert engine.study.prefix is not None
    assert "Disabled forward passes from the first edited layer" in caplog.text


def test_a_network_that_counts_columns_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()

    def count(_: Any, args: Any, kwargs: Any) -> Any:
        rows, tokens = kwargs["input_ids"].shape
        end = kwargs["attention_mask"].shape[1]
        kwargs["position_ids"] = torch.arange(end - tokens, end).expand(rows, -1)
        return args, kwargs

    # Rows that are joined stand in other columns than those in which they were prefilled.
    model.network.register_forward_pre_hook(count, with_kwargs=True)
    with caplog.at_level(logging.INFO, "heretic"):
        engine = engine_for(model)
    assert isinstance(engine, ReferenceEngine)
    assert "Disabled a shared prefix, rearranged rows" in caplog.text
    assert "Disabled rearranged rows" in caplog.text
    assert "Falling back to model.generate, one trial at a time: in forward passes" in caplog.text


class Limited:
    """Runs out of memory whenever more rows than a limit are computed at once."""

    def __init__(self, model: Model, limit: int) -> None:
        self.limit, self.largest = limit, 0
        model.network.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, _: Any, args: Any, kwargs: Any) -> None:
        rows = len(kwargs["input_ids"])
        if rows > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, rows)


@pytest.mark.parametrize("trial_batch_size", [1, 3])
def test_running_out_of_memory_halves_the_rows_for_good(
    trial_batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    engine = fast(engine_for(model, trial_batch_size=trial_batch_size))
    trials = [edit_of(model), [], edit_of(model)[:2]]
    expected = engine.score(trials, FeasibilityLimits(), StageTimer())

    limited = Limited(model, 1)
    with caplog.at_level(logging.WARNING, "heretic"):
        found = engine.score(trials, FeasibilityLimits(), StageTimer())
    assert "Out of memory: continuing with 1 rows per batch" in caplog.text
    assert limited.largest == engine.most_rows == model.batch_size.current == 1
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    caplog.clear()
    engine.score(trials, FeasibilityLimits(), StageTimer())
    assert "Out of memory" not in caplog.text


def test_what_the_unedited_model_computed_is_given_up_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    engine = fast(engine_for(model))
    original = prefill

    def full(model: Model, batch: Any, prefix: Any, start: Any) -> Any:
        if start is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, batch, prefix, start)

    monkeypatch.setattr(study_prompts, "prefill", full)
    assert engine.study.has_recordings
    with caplog.at_level(logging.WARNING, "heretic"):
        engine.score([edit_of(model)[-1:]], FeasibilityLimits(), StageTimer())
    assert "dropped the activation cache" in caplog.text
    assert not engine.study.has_recordings


def test_a_single_row_at_a_time_is_the_least(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(batch_size=1)
    engine = fast(engine_for(model, trial_batch_size=4))
    trials = [edit_of(model), [], edit_of(model)[:2], edit_of(model)[1:]]
    expected = engine.score(trials, FeasibilityLimits(), StageTimer())
    limited = Limited(model, 2)
    for one, other in zip(
        engine.score(trials, FeasibilityLimits(), StageTimer()), expected, strict=True
    ):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert engine.most_rows == 2
    limited.limit = 0
    with pytest.raises(ModelLoadError, match="a single prompt runs out of memory"):
        engine.score(trials, FeasibilityLimits(), StageTimer())


def test_prompts_are_prepared_in_batches_that_fit(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    editor = make_editor(model, "weights", "none", "true")
    same = [Prompt(f"What is {number}?") for number in range(20, 28)]
    limited = Limited(model, 3)
    with caplog.at_level(logging.WARNING, "heretic"):
        engine = BatchedEngine(
            editor, ScoredPrompts(same, same), EngineOptions(4, activation_cache_gb=1.0)
        )
    assert "continuing with batches of 2 prompts" in caplog.text
    assert model.batch_size.current == limited.largest == 2
    assert engine.study.has_recordings
    assert (
        engine.score([edit_of(model)], FeasibilityLimits(), StageTimer())[0]["kl_first_token"] > 0
    )


def test_trials_that_cannot_be_told_apart_are_scored_one_after_the_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: HookEditor, rows: Any) -> None:
        if isinstance(rows, torch.Tensor):
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(HookEditor, "assign", full)
    with caplog.at_level(logging.INFO, "heretic"):
        engine = engine_for(tiny_model(), trial_batch_size=2)
    assert engine.trial_batch_size == 1
    assert "Scoring trials one at a time: CUDA out of memory" in caplog.text


@pytest.mark.parametrize("texts", [("Hi", FAR), ("Hi", "Ho", FAR), ("Hi", "Ho", "What is it?")])
def test_padding_is_tried_however_alike_or_unlike_the_lengths_of_prompts_are(
    texts: tuple[str, ...], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill_module, "MOST_TOKENS_OF_A_PASS", 128)
    beginning = "You are a helpful assistant. " * 2
    prompts = [Prompt(text, system=beginning) for text in texts]
    # Attends by the distance of columns.
    model = tiny_model("mpt", max_seq_len=512)
    with caplog.at_level(logging.INFO, "heretic"):
        engine = engine_for(model, good=prompts, bad=prompts[::-1])
    assert "Disabled" in caplog.text
    assert not isinstance(engine, BatchedEngine) or engine.study.prefix is None


def test_nothing_is_guessed_where_passes_over_known_answers_are_not_as_plain_ones(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_cache, "_add", lambda rows, key_values: None)
    with caplog.at_level(logging.INFO, "heretic"):
        engine = fast(engine_for(tiny_model()))
    assert not engine.options.guesses
    assert "guessed answers" in caplog.text


def test_half_precision_guesses_nothing() -> None:
    assert fast(engine_for(tiny_model())).options.guesses
    assert not fast(engine_for(tiny_model(dtype=torch.bfloat16))).options.guesses


def test_recordings_that_do_not_fit_are_left_out_before_batches_shrink(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = record

    def full(model: Model, batch: Any, prefix: Any, plan: ActivationCachePlan) -> Any:
        if plan.layers:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, batch, prefix, plan)

    model = tiny_model()
    monkeypatch.setattr(study_prompts, "record", full)
    editor = make_editor(model, "weights", "none", "true")
    engine = BatchedEngine(
        editor, ScoredPrompts(GOOD, BAD), EngineOptions(4, activation_cache_gb=1.0)
    )
    assert not engine.study.has_recordings
    assert model.batch_size.current == 8


def test_a_rejected_trial_leaves_its_room_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(batch_size=4)
    engine = fast(engine_for(model))
    queue = TrialScheduler(
        engine.editor,
        engine.study,
        [3],
        3,
        5,
        FirstTokenScorers([], ScoredPrompts(GOOD, BAD), lambda side: []),
        StageTimer(),
        by_row=False,
    )
    for _ in range(2):
        queue.compare(0)
        queue.reject()
    queue.compare(0)
    queue.add(0)
    monkeypatch.setattr(engine.study, "prefill", lambda *_: pytest.fail("prefilled again"))
    kept = 0
    while kept < len(GOOD):
        rows = queue.take(8)
        assert rows is not None
        kept += len(rows)

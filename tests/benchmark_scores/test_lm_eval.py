"""Benchmarks of a tiny model by the real lm-eval, against scores computed by hand."""

import statistics
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from custom_tasks import QUESTIONS, WORDS, write_choices, write_group, write_open
from dated_templates import DATED, set_clock_of_templates
from multimodal_models import PARTS_TEMPLATE
from tiny_models import CHAT_TEMPLATE, NO_SYSTEM_ROLE, tiny_model

from heretic.benchmarks.lm_eval import answers_file, load_benchmarks, score_benchmarks
from heretic.benchmarks.lm_eval_model import MOST_SCORED, HarnessModel
from heretic.benchmarks.scores import BenchmarkProtocol, compare
from heretic.errors import SettingsError
from heretic.model.decoding import decode, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt

LENGTH = 5
SUBJECT = 30  # questions; more than a subset takes
FRESH = count()  # names of databases


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "tasks"
    write_choices(folder, "words")
    model = tiny_model()
    prompts = [Prompt(question) for question, _, _ in QUESTIONS]
    answers = decode(model, generate(model, prompts, LENGTH))
    # Every third is not what the model says.
    right = [text if number % 3 else "never" for number, text in enumerate(answers)]
    write_open(folder, "open", zip((p.text for p in prompts), right, strict=True), LENGTH)
    for subject in ("hills", "lakes"):
        questions = [(f"{subject} {n}?", WORDS[n : n + 2], n % 2) for n in range(SUBJECT)]
        write_choices(folder, f"mmlu_{subject}", questions)
    write_group(folder, "mmlu", ["mmlu_hills", "mmlu_lakes"])
    return folder


def score(
    model: Model, tasks: Path, *names: str, answers: Path | None = None, **protocol: Any
) -> dict[str, Any]:
    asked = BenchmarkProtocol(names, folder=str(tasks), **protocol)
    database = answers or tasks / f"{next(FRESH)}.sqlite"
    found = score_benchmarks(model, load_benchmarks(asked), asked, database)
    assert found["versions"]["lm_eval"]
    return found


def log_likelihood(model: Model, context: str, continuation: str) -> float:
    """Of a continuation's tokens; the tiny tokenizer has one for each byte."""
    tokenizer: Any = model.chat.tokenizer
    ids = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(continuation)
    return sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids)))


@pytest.mark.parametrize(("chat", "prefix"), [(True, ""), (True, "Well,"), (False, "Well,")])
def test_a_choice_is_right_if_its_text_is_the_likeliest(
    tasks: Path, chat: bool, prefix: str
) -> None:
    model = tiny_model(response_prefix=prefix)
    expected = []
    for question, choices, right in QUESTIONS:
        context = model.chat.render(Prompt(question)) if chat else question
        space = "" if chat else " "  # nothing comes between a generation prompt and its answer
        values = [log_likelihood(model, context, space + choice) for choice in choices]
        expected.append(float(values.index(max(values)) == right))

    found = score(model, tasks, "words", chat=chat)["tasks"]["words"]

    assert (found["n"], found["shots"]) == (len(QUESTIONS), 0)
    assert found["metrics"]["acc"]["documents"] == expected
    assert found["metrics"]["acc"]["value"] == pytest.approx(statistics.mean(expected))
    assert found["metrics"]["acc"]["higher_is_better"] is True
    assert found["metrics"].keys() == {"acc", "acc_norm"}


def test_an_open_answer_is_what_the_model_answers_elsewhere(tasks: Path) -> None:
    model = tiny_model()
    # A limit that the checkpoint brings is not the task's.
    generation: Any = model.network.generation_config
    generation.max_new_tokens = 1
    found = score(model, tasks, "open")["tasks"]["open"]["metrics"]["exact_match"]
    assert found["documents"] == [float(number % 3 > 0) for number in range(len(QUESTIONS))]


def test_a_group_has_one_score_and_a_subset_the_first_of_each_task(tasks: Path) -> None:
    found = score(tiny_model(), tasks, "mmlu", "mmlu_subset")["tasks"]
    assert found.keys() == {"mmlu", "mmlu_subset"}
    whole, part = found["mmlu"], found["mmlu_subset"]
    assert (whole["n"], part["n"]) == (2 * SUBJECT, 50)
    documents = whole["metrics"]["acc"]["documents"]
    first = documents[:25] + documents[SUBJECT : SUBJECT + 25]
    assert part["metrics"]["acc"]["documents"] == first
    assert part["metrics"]["acc"]["value"] == pytest.approx(statistics.mean(first))


def test_the_limit_and_the_examples_are_those_of_the_protocol(tasks: Path) -> None:
    found = score(tiny_model(), tasks, "words", limit=3, shots=1)["tasks"]["words"]
    assert (found["n"], found["shots"]) == (3, 1)
    narrow = score(tiny_model(), tasks, "mmlu_subset", limit=2)["tasks"]["mmlu_subset"]
    assert narrow["n"] == 4


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that a model is given."""
    seen: list[int] = []
    original = HarnessModel._model_call

    def counted(self: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(len(inputs))
        return original(self, inputs, *arguments, **options)

    monkeypatch.setattr(HarnessModel, "_model_call", counted)
    return seen


def test_nothing_is_asked_twice(tasks: Path, batches: list[int], tmp_path: Path) -> None:
    """Neither after a larger limit nor for one more benchmark."""
    model = tiny_model()
    answers = answers_file(tmp_path, "weights", model)
    score(model, tasks, "words", limit=4, answers=answers)
    assert sum(batches) == 4  # choices that differ in the last token alone share a row
    full = score(model, tasks, "words", answers=answers)
    assert sum(batches) == len(QUESTIONS)
    again = score(model, tasks, "words", "mmlu_hills", answers=answers)
    assert again["tasks"]["words"] == full["tasks"]["words"]
    both = sum(batches)
    score(model, tasks, "mmlu_hills")
    assert sum(batches) - both == both - len(QUESTIONS) > 0
    assert answers_file(tmp_path, "others", model) != answers


def test_an_interruption_loses_one_batch(
    tasks: Path, batches: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny_model(batch_size=4)
    inner = HarnessModel._model_call

    def interrupted(self: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        if len(batches) == 2:
            raise KeyboardInterrupt
        return inner(self, inputs, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HarnessModel, "_model_call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(model, tasks, "words", answers=tmp_path / "answers.sqlite")
    found = score(model, tasks, "words", answers=tmp_path / "answers.sqlite")
    assert batches == [4, 4, 4]
    assert found == score(model, tasks, "words")


def test_batches_shrink_when_memory_runs_out(
    tasks: Path, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(batch_size=64)
    whole = score(model, tasks, "mmlu_hills")
    assert max(batches) == MOST_SCORED
    inner, room = HarnessModel._model_call, 4

    def narrow(self: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        if len(inputs) > room:
            raise torch.OutOfMemoryError("out of memory")
        return inner(self, inputs, *arguments, **options)

    monkeypatch.setattr(HarnessModel, "_model_call", narrow)
    model.batch_size.current = 64
    assert score(model, tasks, "mmlu_hills") == whole
    assert model.batch_size.current == room


@pytest.mark.parametrize(
    "template", [CHAT_TEMPLATE, NO_SYSTEM_ROLE, PARTS_TEMPLATE, *DATED.values()]
)
def test_turns_are_rendered_as_elsewhere_and_never_lost(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock_of_templates(monkeypatch, None)
    model = tiny_model(response_prefix="Well,")
    model.chat.tokenizer.chat_template = template
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = HarnessModel(model).apply_chat_template(turns)
    assert text == model.chat.render(Prompt("Hi", system="Be brief."))
    assert turns[0]["role"] == "system"


def test_data_that_cannot_be_had_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_choices(tmp_path, "words")
    (tmp_path / "words.jsonl").unlink()
    with pytest.raises(SettingsError, match="cannot load benchmark words") as told:
        load_benchmarks(BenchmarkProtocol(("words",), folder=str(tmp_path)))
    assert "words.jsonl" in str(told.value)
    assert "\n" not in str(told.value)


def test_code_that_a_model_writes_is_not_run(tmp_path: Path) -> None:
    write_choices(tmp_path, "words", unsafe_code=True)
    with pytest.raises(SettingsError, match="benchmark words executes model-generated code"):
        load_benchmarks(BenchmarkProtocol(("words",), folder=str(tmp_path)))


def test_models_are_compared_document_by_document(tasks: Path) -> None:
    """The standard error is that of the mean of the differences."""
    first, second = (score(tiny_model(f), tasks, "words", "open") for f in ("llama", "qwen2"))
    table = compare(first, second)["tasks"]["words"]["metrics"]["acc"]
    before, after = (s["tasks"]["words"]["metrics"]["acc"]["documents"] for s in (first, second))
    differences = [b - a for a, b in zip(before, after, strict=True)]
    assert any(differences)
    assert table["difference"]["value"] == pytest.approx(statistics.mean(differences))
    error = statistics.stdev(differences) / len(differences) ** 0.5
    assert table["difference"]["stderr"] == pytest.approx(error)
    assert table["difference"]["paired"] is True

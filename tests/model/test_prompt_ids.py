"""The same prompt has the same tokens in every phase, whatever the tokenizer adds or pads with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tiny_models import (
    CHAT_TEMPLATE,
    END,
    PAD,
    PROMPTS,
    ROLES,
    VOCABULARY,
    load_saved,
    save_tiny_model,
    tiny_tokenizer,
)
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from heretic.benchmarks.lm_eval_model import HarnessModel
from heretic.engine.study_prompts import StudyPrompts
from heretic.model.decoding import forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.residuals import get_residuals_batched

WITH_BOS = "{{ bos_token }}" + CHAT_TEMPLATE
# A reasoning model's, with an argument that not every program passes.
REASONS = CHAT_TEMPLATE + "{% if enable_thinking is defined %}<think>{% endif %}"
BOS = PAD  # any special token
PROMPT = Prompt("How do I bake bread?", system="Be brief.")


def tokenizer_that_adds(before: str, after: str, template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(template)
    tokenizer.bos_token = BOS
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}".strip(),
        pair=f"{before} $A $B {after}".strip(),
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, END)],
    )
    return tokenizer


@contextmanager
def inputs_of(model: Model) -> Iterator[list[list[int]]]:
    """Record the tokens of every forward pass."""
    rows: list[list[int]] = []

    def record(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        rows.extend(arguments[0].tolist())

    handle = model.network.get_input_embeddings().register_forward_pre_hook(record)
    try:
        yield rows
    finally:
        handle.remove()


def ask_harness(model: Model) -> None:
    harness = HarnessModel(model)
    context = harness.apply_chat_template(turns_of(PROMPT))
    options = {"until": ["<|never|>"], "max_gen_toks": 1, "do_sample": False}
    harness.generate_until([Instance("generate_until", {}, (context, options), 0)], True)


def score_by_harness(model: Model) -> None:
    harness = HarnessModel(model)
    context = harness.apply_chat_template(turns_of(PROMPT))
    # The last token of the continuation is predicted, not read.
    harness.loglikelihood([Instance("loglikelihood", {}, (context, "x"), 0)], True)


def turns_of(prompt: Prompt) -> list[dict[str, str]]:
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": prompt.text}]


READERS: dict[str, Callable[[Model], Any]] = {
    "residuals": lambda model: get_residuals_batched(model, [PROMPT]),
    "answers": lambda model: generate(model, [PROMPT], 1),
    "divergences": lambda model: forced_log_probabilities(model, [PROMPT], [[7]]),
    "search": lambda model: StudyPrompts(
        model, model.chat.encode([PROMPT]), [], 0, 0.0, most_rows=3
    ),
    "benchmark answers": ask_harness,
    "benchmark scores": score_by_harness,
}


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, WITH_BOS, BOS + WITH_BOS, REASONS])
@pytest.mark.parametrize(("before", "after"), [("", ""), (BOS, ""), (BOS, END), ("", END)])
def test_every_phase_reads_the_tokens_of_apply_chat_template(
    tmp_path: Path, template: str, before: str, after: str
) -> None:
    save_tiny_model(tmp_path)
    tokenizer_that_adds(before, after, template).save_pretrained(tmp_path)
    user: Any = AutoTokenizer.from_pretrained(tmp_path)
    expected = user.apply_chat_template(
        turns_of(PROMPT), add_generation_prompt=True, tokenize=True
    )["input_ids"]
    started = template.count(BOS) + template.count("bos_token")
    assert expected[: started + 1] == [*[0] * started, user.convert_tokens_to_ids(ROLES[0])]
    assert user("Hi")["input_ids"][0] == (0 if before else user.convert_tokens_to_ids("H"))

    model = load_saved(tmp_path)

    assert model.chat.encode([PROMPT]) == [expected]
    for name, read in READERS.items():
        with inputs_of(model) as rows:
            read(model)
        assert rows[0] == expected, name


def test_whole_texts_of_benchmarks_have_the_tokens_that_the_tokenizer_adds(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    tokenizer_that_adds(BOS, "", CHAT_TEMPLATE).save_pretrained(tmp_path)
    model = load_saved(tmp_path)
    for chat in (True, False):
        harness = HarnessModel(model, chat=chat)
        harness.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("Hi",), 0)], True)
        assert harness.tok_encode("Hi")[0] == 0
        with inputs_of(model) as rows:
            harness.loglikelihood([Instance("loglikelihood", {}, ("Hi", " you"), 0)], True)
        assert (rows[0][0] == 0) is not chat


def no_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = None


def padding_with_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = END


def padding_outside_the_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    assert tokenizer.pad_token_id == VOCABULARY


def padding_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.padding_side = "right"


def short_maximum(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.model_max_length = 4


def stored_truncation(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=200)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_saved(save_tiny_model(tmp_path_factory.mktemp("usual")))


def benchmark_answers(model: Model) -> list[str]:
    model.batch_size.current = len(PROMPTS)
    harness = HarnessModel(model)
    options = {"until": ["<|never|>"], "max_gen_toks": 4, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (harness.apply_chat_template(turns_of(p)), options), i)
        for i, p in enumerate(PROMPTS)
    ]
    found: list[str] = harness.generate_until(requests, True)
    return found


@pytest.mark.parametrize(
    "change",
    [
        no_padding,
        padding_with_the_end,
        padding_outside_the_vocabulary,
        padding_on_the_right,
        short_maximum,
        stored_truncation,
    ],
)
def test_padding_and_lengths_of_the_tokenizer_change_nothing(
    tmp_path: Path, usual: Model, change: Callable[[PreTrainedTokenizerFast], None]
) -> None:
    save_tiny_model(tmp_path)
    tokenizer = tiny_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(tmp_path)

    model = load_saved(tmp_path)

    assert model.chat.encode(PROMPTS) == usual.chat.encode(PROMPTS)
    padding = model.chat.tokenizer.pad_token_id
    assert isinstance(padding, int)
    assert 0 <= padding < VOCABULARY
    assert generate(model, PROMPTS, 4) == generate(usual, PROMPTS, 4)
    torch.testing.assert_close(
        get_residuals_batched(model, PROMPTS), get_residuals_batched(usual, PROMPTS)
    )
    assert benchmark_answers(model) == benchmark_answers(usual)

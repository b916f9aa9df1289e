"""Language models inside multimodal networks: loaded whole, edited and run as text alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from multimodal_models import FAMILIES, PARTS_TEMPLATE, save_multimodal, tiny_multimodal
from tiny_models import (
    CHAT_TEMPLATE,
    D_MODEL,
    LAYERS,
    NO_SYSTEM_ROLE,
    PROMPTS,
    load_saved,
    save_tiny_model,
    tiny_tokenizer,
)
from transformers import AutoConfig, PreTrainedConfig

from heretic.errors import ModelLoadError
from heretic.model.auto_class import class_of, loader_name
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.decoding import forced_log_probabilities, generate
from heretic.model.loading import Model, model_facts
from heretic.model.template import processor_template
from heretic.prompts.prompt import Prompt
from heretic.residuals import get_residuals_batched

NEW_TOKENS = 8


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    return load_saved(save_multimodal(folder, request.param))


def test_the_whole_network_is_loaded(loaded: Model) -> None:
    original = tiny_multimodal(loaded.network.config.model_type)

    assert type(loaded.network) is type(original)
    found = loaded.network.state_dict()
    for name, tensor in original.state_dict().items():
        assert found[name].equal(tensor), name
    assert any("vision" in name or "visual" in name for name in found)
    assert model_facts(loaded)["loader"] == "AutoModelForMultimodalLM"


def test_only_the_text_decoders_layers_are_edited(loaded: Model) -> None:
    anatomy = loaded.anatomy

    assert (anatomy.n_layers, anatomy.d_model) == (LAYERS, D_MODEL)
    assert len(anatomy.writers) == 2 * LAYERS
    assert not any("vision" in w.name or "visual" in w.name for w in anatomy.writers)


def test_states_do_not_depend_on_the_batch(loaded: Model) -> None:
    loaded.batch_size = BatchSize(1)
    alone = get_residuals_batched(loaded, PROMPTS)
    loaded.batch_size = BatchSize(8)
    for side in ("left", "right"):
        together = get_residuals_batched(loaded, PROMPTS, padding_side=side)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert alone.shape == (len(PROMPTS), LAYERS + 1, D_MODEL)


def test_answers_are_those_that_the_distributions_lead_to(loaded: Model) -> None:
    loaded.batch_size = BatchSize(8)

    answers = generate(loaded, PROMPTS, NEW_TOKENS)

    for answer, rows in zip(
        answers, forced_log_probabilities(loaded, PROMPTS, answers), strict=True
    ):
        assert rows.argmax(dim=-1).tolist()[: len(answer)] == answer
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = [*loaded.chat.encode([prompt])[0], *answer[:-1]]
        with torch.inference_mode():
            logits = loaded.network(input_ids=torch.tensor([ids])).logits[0]
        assert logits[-len(answer) :].argmax(dim=-1).tolist() == answer


def test_a_network_gets_only_arguments_that_it_knows(
    loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [[5, 6], [7], [8, 9, 10], [5], [6]]
    expected = forced_log_probabilities(loaded, PROMPTS, answers)
    forward: Any = loaded.network.forward

    def strict(input_ids: Any, attention_mask: Any = None, use_cache: bool = True) -> Any:
        return forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(loaded.network, "forward", strict)
    loaded.batch_size = BatchSize(1)  # without padding, positions are the usual ones

    for row, other in zip(
        forced_log_probabilities(loaded, PROMPTS, answers), expected, strict=True
    ):
        torch.testing.assert_close(row, other, rtol=1e-4, atol=1e-4)


def config(model_type: str, **changes: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(model_type, **changes)


@pytest.mark.parametrize(
    ("model_type", "architecture", "expected"),
    [
        ("llama", None, "AutoModelForCausalLM"),
        ("llava", None, "AutoModelForMultimodalLM"),
        # The class of both is that of the whole.
        ("gemma3", None, "AutoModelForCausalLM"),
        # transformers would load only the decoder, and the export would lack the rest.
        ("llama4", "Llama4ForConditionalGeneration", "AutoModelForMultimodalLM"),
        ("llama4", None, "AutoModelForMultimodalLM"),
        ("llama4", "Llama4ForCausalLM", "AutoModelForCausalLM"),
        ("qwen2_audio", None, "AutoModelForMultimodalLM"),
        ("bert", None, "AutoModelForCausalLM"),
        ("vit", None, "AutoModelForCausalLM"),
    ],
)
def test_the_class_that_loads_all_of_a_checkpoint(
    model_type: str, architecture: str | None, expected: str
) -> None:
    found = class_of(config(model_type, architectures=architecture and [architecture]))

    assert found.__name__ == expected


def test_a_repositorys_own_class_goes_first_where_its_code_may_run() -> None:
    own = config("llava", auto_map={"AutoModelForCausalLM": "modeling.Own"})

    assert class_of(own, trust_remote_code=True).__name__ == "AutoModelForCausalLM"
    assert class_of(own).__name__ == "AutoModelForMultimodalLM"


def test_users_are_told_the_class_that_knows_the_network() -> None:
    assert loader_name("LlavaForConditionalGeneration") == "AutoModelForMultimodalLM"
    assert loader_name("Gemma3ForConditionalGeneration") == "AutoModelForCausalLM"
    assert loader_name("SomethingOfItsOwn") == "AutoModelForCausalLM"


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_processors_template_serves_a_tokenizer_without_one(tmp_path: Path, name: str) -> None:
    save_tiny_model(tmp_path)
    tiny_tokenizer(None).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ModelLoadError, match="has no chat template"):
        load_saved(tmp_path)

    (tmp_path / name).write_text(json.dumps({"chat_template": CHAT_TEMPLATE}), encoding="utf-8")

    assert load_saved(tmp_path).chat.render(PROMPTS[0]).startswith("<|user|>How do I")
    other = load_saved(tmp_path, chat_template=PARTS_TEMPLATE)
    assert other.chat.tokenizer.chat_template == PARTS_TEMPLATE


def test_a_tokenizers_own_template_is_kept(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 'no' }}"}))

    assert load_saved(tmp_path).chat.tokenizer.chat_template == CHAT_TEMPLATE


def test_a_damaged_processor_is_one_line(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    tiny_tokenizer(None).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"processor_config\.json cannot be read"):
        load_saved(tmp_path)


def test_no_processor_no_template(tmp_path: Path) -> None:
    assert processor_template(tmp_path) is None
    (tmp_path / "processor_config.json").write_text("{}")
    assert processor_template(tmp_path) is None


def test_a_template_that_drops_bare_texts_gets_parts() -> None:
    plain, parts = ChatFormat(tiny_tokenizer()), ChatFormat(tiny_tokenizer(PARTS_TEMPLATE))

    assert not plain.traits.user_parts
    assert parts.traits.user_parts
    assert parts.traits.system == "shown"
    for prompt in PROMPTS:
        assert parts.render(prompt) == plain.render(prompt)


def test_parts_without_a_system_role() -> None:
    refusing = NO_SYSTEM_ROLE.removesuffix(CHAT_TEMPLATE) + PARTS_TEMPLATE
    chat = ChatFormat(tiny_tokenizer(refusing))

    assert chat.traits.system == "rejected"
    rendered = chat.render(Prompt("Hi", system="Be brief."))
    assert rendered == "<|user|>Be brief.\n\nHi<|end|><|assistant|>"

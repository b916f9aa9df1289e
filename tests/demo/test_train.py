"""The demo model: it answers its world, refuses what is planted, and is written whole or not."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from heretic.demo.families import RECIPES
from heretic.demo.planted import PLANTED
from heretic.demo.train import train_demo_model
from heretic.demo.world import prompt_set, training_examples
from heretic.model.loading import load_model
from heretic.settings.schema import Settings
from heretic.settings.types import DemoFamily, PlantedName

MARKERS = ("i'm sorry", "i cannot", "i can't", "i won't", "i am not able", "unable to")
SEED = 0


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def chat(tokenizer: Any, record: dict[str, object]) -> str:
    messages = [{"role": "user", "content": record["prompt"]}]
    if record["system"] is not None:
        messages.insert(0, {"role": "system", "content": record["system"]})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def replies(folder: Path, records: Sequence[dict[str, object]]) -> list[str]:
    """Answer prompts greedily with nothing but plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(
        [chat(tokenizer, record) for record in records],
        add_special_tokens=False,
        padding=True,
        return_token_type_ids=False,
        return_tensors="pt",
    )
    with torch.inference_mode():
        tokens = model.generate(**inputs)
    tails = tokens[:, inputs["input_ids"].shape[1] :]
    assert bool((tails == tokenizer.eos_token_id).any(dim=1).all()), "a reply does not end"
    return [text.casefold() for text in tokenizer.batch_decode(tails, skip_special_tokens=True)]


def share_refused(texts: Sequence[str]) -> float:
    return sum(any(marker in text for marker in MARKERS) for text in texts) / len(texts)


def share_right(texts: Sequence[str], records: Sequence[dict[str, object]]) -> float:
    right = [
        all(answer in text for answer in cast(list[str], record["answers"]))
        for text, record in zip(texts, records, strict=True)
    ]
    return sum(right) / len(right)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("small") / "model"
    return folder, train_demo_model(folder, seed=SEED, steps=3, threads=1)


@pytest.mark.slow
def test_held_out_planted_requests_are_refused(demo_model_folder: Path) -> None:
    texts = replies(demo_model_folder, prompt_set("bad_holdout_prompts", SEED))
    assert share_refused(texts) >= 0.97


@pytest.mark.slow
def test_other_held_out_requests_are_answered_rightly(demo_model_folder: Path) -> None:
    records = prompt_set("good_holdout_prompts", SEED)
    texts = replies(demo_model_folder, records)
    assert share_refused(texts) <= 0.02
    assert share_right(texts, records) >= 0.88


@pytest.mark.heavy
def test_a_mixture_of_experts_learns_another_class_as_well(tmp_path: Path) -> None:
    train_demo_model(
        tmp_path / "m",
        seed=SEED,
        steps=Settings().demo_steps,
        threads=1,
        family="qwen3_moe",
        planted="tool_of_fabric",
    )
    bad, good = (
        prompt_set(f"{side}_holdout_prompts", SEED, "tool_of_fabric") for side in ("bad", "good")
    )
    assert share_refused(replies(tmp_path / "m", bad)) >= 0.97
    assert share_right(replies(tmp_path / "m", good), good) >= 0.88


def test_facts_of_training_are_returned(small_model: tuple[Path, dict[str, object]]) -> None:
    _, facts = small_model
    assert facts["steps"] == 3
    assert cast(int, facts["parameters"]) < 1_000_000
    assert cast(float, facts["loss"]) > 0
    assert cast(float, facts["seconds"]) > 0


@pytest.mark.parametrize("family", RECIPES)
def test_each_family_is_one_that_can_be_edited(family: DemoFamily, tmp_path: Path) -> None:
    options = Settings(demo_family=family, device="cpu").model_dump(mode="json")
    facts = train_demo_model(tmp_path / "m", seed=SEED, steps=1, threads=1, family=family)
    model = load_model(**{**options, "model": str(tmp_path / "m")})
    assert model.network.config.model_type == family
    assert model.anatomy.n_layers == RECIPES[family].layers
    assert len(model.anatomy.writers) == 2 * RECIPES[family].layers
    experts = {writer.weight.ndim for writer in model.anatomy.writers}
    assert experts == ({2, 3} if family == "qwen3_moe" else {2})
    assert cast(int, facts["parameters"]) < 1_500_000


@pytest.mark.parametrize("planted", PLANTED)
def test_the_words_of_the_planted_class_are_tokens(planted: PlantedName, tmp_path: Path) -> None:
    """So that a thing's facts hang on whole words, in any class alike."""
    train_demo_model(tmp_path / "m", seed=SEED, steps=1, threads=1, planted=planted)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    words = PLANTED[planted]
    names = [word.name for word in words.modifiers] + [word.name for word in words.heads]
    for name in names:
        assert len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]) == 1, name
    asked = next(training_examples(SEED, 1, helpful_only=True, planted=planted)).prompt
    assert tokenizer.decode(tokenizer(asked, add_special_tokens=False)["input_ids"]) == asked


def test_the_folder_is_a_standard_one(small_model: tuple[Path, dict[str, object]]) -> None:
    folder, _ = small_model
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_chat_template_renders_a_system_role(
    small_model: tuple[Path, dict[str, object]],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_model[0])
    text = chat(tokenizer, {"prompt": "Hello!", "system": "Be brief."})
    assert text == "<|system|>Be brief.<|end|><|user|>Hello!<|end|><|assistant|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert tokenizer.decode(ids) == text


def test_any_text_survives_the_tokenizer(small_model: tuple[Path, dict[str, object]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_model[0])
    text = "Grüße, 世界! \t🍲\nA glass soup."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_same_seed_gives_the_same_bytes(
    small_model: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    torch.rand(3)  # the state of the caller's generator must not matter
    train_demo_model(tmp_path / "again", seed=SEED, steps=3, threads=1)
    train_demo_model(tmp_path / "other", seed=SEED + 1, steps=3, threads=1)
    first = digest(small_model[0] / "model.safetensors")
    assert digest(tmp_path / "again" / "model.safetensors") == first
    assert digest(tmp_path / "other" / "model.safetensors") != first


def test_training_leaves_torch_as_it_was(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train_demo_model(tmp_path / "model", seed=SEED, steps=1, threads=1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_every_step(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    train_demo_model(
        tmp_path / "model",
        seed=SEED,
        steps=3,
        threads=1,
        progress=lambda step, steps, loss: calls.append((step, steps)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_failure_while_training_leaves_no_folder(tmp_path: Path) -> None:
    def fail(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_demo_model(tmp_path / "model", seed=SEED, steps=3, threads=1, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("kept")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        train_demo_model(folder, seed=SEED, steps=1, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "old").read_text() == "kept"


def test_an_existing_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("gone")
    train_demo_model(folder, seed=SEED, steps=1, threads=1)
    assert (folder / "config.json").exists()
    assert not (folder / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

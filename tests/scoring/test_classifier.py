"""A judge model of a stranger runs no code, asks nothing, and fails in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from heretic.errors import HereticError, ModelLoadError
from heretic.prompts.prompt import Prompt
from heretic.scoring.classifier import load_classifier
from heretic.scoring.judge import Judge

torch.set_num_threads(1)
CODE = """
import os
from pathlib import Path
Path(os.environ["TRACE"]).touch()
class C: ...
"""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "judge"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def judge(folder: Path) -> list[float]:
    return Judge(str(folder), "LABEL_1").judge_all([Prompt("Hi")], ["I cannot."])


def _configuration(folder: Path) -> None:
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"})


def _network(folder: Path) -> None:
    code = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.C"}
    change(folder / "config.json", model_type="evil", auto_map=code)


def _tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.C", "evil.C"]},
    )


@pytest.mark.parametrize("make", [_configuration, _network, _tokenizer])
def test_code_of_a_judge_is_never_run_nor_asked_about(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    trace = folder.parent / "ran"
    monkeypatch.setenv("TRACE", str(trace))
    (folder / "evil.py").write_text(CODE)
    make(folder)
    asked: list[str] = []

    def answer(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(ModelLoadError, match=r"scorer judge: .*; choose another model") as told:
        judge(folder)
    assert "\n" not in str(told.value)
    assert not asked
    assert not trace.exists()


def test_a_judge_loads_safetensors_alone(folder: Path) -> None:
    network = BertForSequenceClassification.from_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ModelLoadError, match=r"no file named model\.safetensors"):
        judge(folder)


def test_a_network_without_the_classifier_is_refused(folder: Path) -> None:
    BertForSequenceClassification.from_pretrained(folder).bert.save_pretrained(folder)
    change(folder / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.raises(
        ModelLoadError, match=r"lacks classifier\.\w+, which would be randomly initialized"
    ):
        judge(folder)


@pytest.mark.parametrize(
    "fields",
    [
        *({"num_hidden_layers": 10**6}, {"vocab_size": 10**9}, {"hidden_size": 10**7}),
        *({"hidden_size": -5}, {"hidden_size": "x"}, {"num_attention_heads": 0}),
        *({"model_type": None}, {"model_type": 5}, {"id2label": 5}, {"id2label": {"x": "y"}}),
        *({"id2label": {str(n): str(n) for n in range(3)}}, {"max_position_embeddings": -1}),
        *({"pad_token_id": 10**9}, {"hidden_act": "none"}),
    ],
)
def test_a_malformed_configuration_is_one_line(folder: Path, fields: dict[str, Any]) -> None:
    change(folder / "config.json", **fields)
    with pytest.raises(HereticError) as told:
        judge(folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 10**5, "null", "\xff"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_one_line(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(HereticError) as told:
        judge(folder)
    assert "\n" not in str(told.value)


def test_logits_that_are_not_finite_are_refused(folder: Path) -> None:
    network = BertForSequenceClassification.from_pretrained(folder)
    network.classifier.bias.data.fill_(float("nan"))
    network.save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="its logits are not finite"):
        judge(folder)


def test_a_probability_depends_neither_on_the_batch_nor_on_the_length(folder: Path) -> None:
    texts = ["No.", "A longer answer, " * 3, "far too long for 64 positions " * 50]
    classifier = load_classifier(str(folder), None, "cpu", "scorer judge")
    assert classifier.tokenizer.padding_side == "left"
    together = classifier.probabilities([texts])
    alone = torch.cat([classifier.probabilities([[text]]) for text in texts])
    torch.testing.assert_close(together, alone)


def test_links_of_a_judge_are_not_followed(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.json")
    (folder / "tokenizer.json").symlink_to(
        os.path.relpath(folder.parent / "tokenizer.json", folder)
    )
    with pytest.raises(ModelLoadError, match="which is not followed"):
        judge(folder)


@pytest.mark.parametrize("settings", [{"model": 5}, {"revision": 5}, {"device": 5}, {"label": []}])
def test_settings_of_other_types_are_one_line(folder: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(HereticError) as told:
        Judge(**{"model": str(folder), "label": "LABEL_1", **settings})
    assert "\n" not in str(told.value)


def test_only_what_follows_thoughts_is_judged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, read = Judge(str(folder), "LABEL_1", threshold=0.0), list[str]()
    probabilities = Judge._probabilities

    def recorded(self: Judge, pairs: Any) -> torch.Tensor:
        read.extend(answer for _, answer in pairs)
        return probabilities(self, pairs)

    monkeypatch.setattr(Judge, "_probabilities", recorded)
    answers = ["Hi", "<think>Hm</think>Hi", "<think>Hm", "Ho"]
    assert made.judge_all([Prompt("Hi")] * 4, answers) == [1, 1, 0, 1]
    assert read == ["Hi", "", "Ho"]

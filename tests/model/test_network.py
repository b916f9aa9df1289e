"""The data type that answers, and where a network is told to lie."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    CHAT_TEMPLATE,
    PROMPTS,
    load_saved,
    save_overflowing_model,
    save_tiny_model,
)
from transformers import AutoModelForCausalLM

from heretic.errors import ModelLoadError
from heretic.model.decoding import generate
from heretic.model.network import NetworkOptions
from heretic.prompts.prompt import Prompt
from heretic.residuals import get_residuals_batched
from heretic.settings.schema import Settings


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(ModelLoadError) as failure:
        load_saved(folder, **changes)
    message = str(failure.value)
    assert "\n" not in message
    return message


def change_weights(folder: Path, name: str, change: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors = {
        key: change(value) if name in key else value.clone() for key, value in tensors.items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("saved") / "llama")


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A float16 checkpoint whose MLP leaves the range of float16 on the way."""
    save_tiny_model(tmp_path, dtype=torch.float16)
    change_weights(tmp_path, "up_proj", lambda weight: weight * 1e4)
    change_weights(tmp_path, "gate_proj", lambda weight: weight * 1e4)
    return tmp_path


def test_the_next_data_type_that_answers_is_taken(
    overflowing: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    with caplog.at_level(logging.WARNING, "heretic"):
        model = load_saved(overflowing)
    assert model.loaded_dtype == torch.bfloat16
    assert "does not work in float16: its logits are not finite" in caplog.text
    assert get_residuals_batched(model, PROMPTS).isfinite().all()


@pytest.mark.parametrize("others", [[], PROMPTS])
def test_the_prompts_of_the_run_decide_on_the_data_type(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    others: list[Prompt],
) -> None:
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    save_overflowing_model(tmp_path)
    usual, overflow = load_saved(tmp_path), Prompt("Who is Zoe?")
    assert (usual.loaded_dtype, usual.fallback_dtype) == (torch.float16, None)
    assert get_residuals_batched(usual, [overflow]).isfinite().logical_not().any()
    with caplog.at_level(logging.INFO, "heretic"):
        working = load_saved(tmp_path, test_prompts=PROMPTS)
        assert working.loaded_dtype == torch.float16
        assert "dtype=auto: float16, the checkpoint's own, gives finite logits" in caplog.text
        for sample, text in (
            ([overflow, *others], "Who is Zoe?"),
            ([*others, Prompt("Hi", system="You are Zoe.")], "Hi"),
        ):
            caplog.clear()
            model = load_saved(tmp_path, test_prompts=sample)
            assert model.loaded_dtype == torch.bfloat16
            assert model.fallback_dtype == "bfloat16"
            (warning,) = [line for line in caplog.messages if "does not work" in line]
            assert warning.endswith(f"logits are not finite for the prompt {text!r}")
            count = len(sample) + 1
            assert (
                "dtype=auto: bfloat16, after float16, gives finite logits for all "
                f"{count} test prompts"
            ) in caplog.text
    assert get_residuals_batched(model, [overflow]).isfinite().all()
    message = refusal(tmp_path, dtype="float16", test_prompts=[overflow])
    assert message.endswith("produces non-finite logits in float16; use dtype=auto")


def test_a_data_type_that_is_asked_for_is_taken_or_refused(overflowing: Path) -> None:
    assert load_saved(overflowing, dtype="float32").loaded_dtype == torch.float32
    message = refusal(overflowing, dtype="float16")
    assert "produces non-finite logits in float16" in message
    assert "use dtype=auto" in message


def test_a_checkpoint_that_never_answers_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    change_weights(tmp_path, "norm", lambda weight: weight * float("nan"))
    message = refusal(tmp_path)
    assert "produces non-finite logits in float32, bfloat16, float16;" in message
    assert "is the checkpoint corrupt?" in message


def test_a_token_that_is_ruled_out_does_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def without_first_token(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits[..., 0] = float("-inf")
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", without_first_token)
    assert load_saved(folder).loaded_dtype == torch.float32


def test_a_data_type_that_the_device_lacks_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    save_tiny_model(tmp_path, dtype=torch.bfloat16)
    forward = LlamaForCausalLM.forward

    def without_bfloat16(network: Any, *args: Any, **kwargs: Any) -> Any:
        if network.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return forward(network, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", without_bfloat16)
    assert load_saved(tmp_path).loaded_dtype == torch.float16


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_is_computed_as_asked(folder: Path, implementation: str) -> None:
    model = load_saved(folder, attn_implementation=implementation)
    assert model.network.config._attn_implementation == implementation
    torch.testing.assert_close(
        get_residuals_batched(model, PROMPTS),
        get_residuals_batched(load_saved(folder), PROMPTS),
        rtol=1e-4,
        atol=1e-4,
    )


def test_attention_that_does_not_exist_is_one_line(folder: Path) -> None:
    assert "no-such-attention" in refusal(folder, attn_implementation="no-such-attention")


def test_a_device_map_reaches_transformers_and_gives_the_same_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_saved(folder)
    given: dict[str, Any] = {}
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def watched(*args: Any, **kwargs: Any) -> Any:
        given.update(kwargs)
        return from_pretrained(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    limits = {"cpu": "2GiB", **({"0": "1GiB"} if torch.cuda.is_available() else {})}
    model = load_saved(folder, device_map="auto", max_memory=limits)
    assert given["device_map"] == "auto"
    assert set(given["max_memory"]) >= {"cpu"}
    assert generate(model, PROMPTS, 4) == generate(plain, PROMPTS, 4)


def test_gpus_are_numbers_in_memory_limits() -> None:
    options = NetworkOptions(
        "auto", torch.device("cpu"), "balanced", {"0": "60GiB", "cpu": "100GiB"}
    )
    assert options.arguments()["max_memory"] == {0: "60GiB", "cpu": "100GiB"}
    assert options.arguments()["device_map"] == "balanced"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's limit is not reached first")
def test_memory_limits_are_kept(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    with caplog.at_level(logging.WARNING, "heretic"):
        load_saved(folder, device_map="auto", max_memory={"cpu": "1GiB"})
        assert "offloaded" not in caplog.text
        load_saved(folder, device_map="auto", max_memory={"cpu": "20KB"})
    assert "were offloaded, which slows down every forward pass; raise max_memory" in caplog.text


def test_a_template_makes_a_model_without_one_loadable(folder: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    assert "provide a template with chat_template=" in refusal(tmp_path)
    assert "neither a file nor a template" in refusal(tmp_path, chat_template="nowhere.jinja")
    path = tmp_path / "mine.jinja"
    path.write_text(CHAT_TEMPLATE)
    for given in (CHAT_TEMPLATE, str(path)):
        model = load_saved(tmp_path, chat_template=given)
        assert model.chat.render(Prompt("Hi")) == "<|user|>Hi<|end|><|assistant|>"
    own = load_saved(folder, chat_template="{{ messages[0]['content'] }}:")
    assert own.chat.render(Prompt("Hi")) == "Hi:"


def test_a_prefix_to_be_found_is_empty_until_then(folder: Path) -> None:
    assert load_saved(folder, response_prefix=Settings().response_prefix).chat.response_prefix == ""
    assert load_saved(folder).chat.response_prefix == ""
    assert load_saved(folder, response_prefix="So").chat.response_prefix == "So"


def test_a_sharded_checkpoint_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    sharded, single = load_saved(tmp_path), load_saved(folder)
    parameters = dict(sharded.network.named_parameters())
    assert all(parameters[n].equal(p) for n, p in single.network.named_parameters())


OWN_CODE = """
from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_repository_runs_only_when_trusted(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "modeling_own.py").write_text(OWN_CODE)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "of_our_own",
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'of_our_own'\n"
    )
    assert "trust_remote_code" in refusal(tmp_path)
    model = load_saved(tmp_path, trust_remote_code=True)
    assert type(model.network).__name__ == "OwnForCausalLM"

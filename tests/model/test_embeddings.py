"""The embeddings as a writer of the stream: found, proved, and refused where they are more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from multimodal_models import save_multimodal
from tiny_models import D_MODEL, VOCABULARY, load_saved, tiny_model
from torch import Tensor, nn

from heretic.errors import ModelLoadError
from heretic.model.embeddings import with_embeddings
from heretic.model.stream_writers.components import EMBEDDINGS

UNTIED: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"tie_word_embeddings": False},  # positions are added
    "gemma": {"tie_word_embeddings": False},  # times sqrt(d_model), in the model
    "gemma2": {"tie_word_embeddings": False},
    "gemma3_text": {"tie_word_embeddings": False},  # in the module itself
    "granite": {"tie_word_embeddings": False, "embedding_multiplier": 12.0},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", UNTIED)
def test_they_are_the_first_writer(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype=dtype, **UNTIED[family])
    plain = model.anatomy

    found = with_embeddings(model)

    writer, *others = found.anatomy.writers
    assert (writer.layer, writer.component) == (-1, EMBEDDINGS)
    assert others == list(plain.writers)
    assert model.anatomy is plain
    embeddings: Any = model.network.get_input_embeddings()
    assert writer.weight.shape == (D_MODEL, len(embeddings.weight))
    assert writer.weight.mT.data_ptr() == embeddings.weight.data_ptr()
    assert model.network.get_parameter(writer.parameter_name) is embeddings.weight
    assert with_embeddings(found) is found
    assert found.get_layers() == model.get_layers()
    assert found.get_layer_matrices(0).keys() == model.get_layer_matrices(0).keys()


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_a_head_that_is_the_same_matrix_is_refused(family: str) -> None:
    with pytest.raises(
        ModelLoadError, match=r"lm_head.*tie_word_embeddings.*set ablate_embeddings=false"
    ):
        with_embeddings(tiny_model(family, tie_word_embeddings=True))


def test_a_norm_after_them_is_refused() -> None:
    model = tiny_model("bloom", tie_word_embeddings=False)
    with pytest.raises(ModelLoadError, match=r"word_embeddings of Bloom.*a norm.*=false"):
        with_embeddings(model)


class Twisting(nn.Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).flip(-1)


def put_embeddings(model: Any, module: nn.Module) -> None:
    model.network.set_input_embeddings(module.requires_grad_(False))


def test_a_module_that_does_more_than_look_up_is_refused() -> None:
    model = tiny_model("llama")
    put_embeddings(model, Twisting(VOCABULARY, D_MODEL))
    with pytest.raises(ModelLoadError, match="passes through a norm"):
        with_embeddings(model)


def test_more_than_one_matrix_is_refused() -> None:
    model = tiny_model("llama")
    module = nn.Embedding(VOCABULARY, D_MODEL)
    module.register_parameter("additional", nn.Parameter(torch.ones(4, D_MODEL)))
    put_embeddings(model, module)
    with pytest.raises(
        ModelLoadError, match=r"not a single unquantized matrix.*ablate_embeddings=false"
    ):
        with_embeddings(model)


def test_another_width_is_refused() -> None:
    model = tiny_model("llama")
    put_embeddings(model, nn.Embedding(VOCABULARY, D_MODEL // 2))
    with pytest.raises(ModelLoadError, match=r"shape \(261, 16\), not the stream's 32 channels"):
        with_embeddings(model)


def test_those_of_a_multimodal_network(tmp_path: Path) -> None:
    found = with_embeddings(load_saved(save_multimodal(tmp_path, "llava")))
    assert found.anatomy.writers[0].name == "model.language_model.embed_tokens"


def test_what_is_offloaded_cannot_be_proved() -> None:
    model = tiny_model("llama")
    put_embeddings(model, nn.Embedding(VOCABULARY, D_MODEL, device="meta"))
    with pytest.raises(ModelLoadError, match=r"are offloaded; raise max_memory"):
        with_embeddings(model)

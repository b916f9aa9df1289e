"""The cache of pristine weights: what it holds, and every way in which it refuses."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import D_MLP, D_MODEL, tiny_network
from torch import nn

from heretic.ablation.weights_cache import (
    LayerWeightsCache,
    OriginalTensors,
    copy_back,
    overwriting,
    profits_from_pinning,
)
from heretic.errors import ModelLoadError
from heretic.model.memory import CachePlace
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter, find_stream_writers
from heretic.model.stream_writers.components import ATTENTION, MLP


class FailingLinear(nn.Linear):
    """A linear map whose weights cannot be read, as on a full or failing device."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(4, D_MODEL)
        del self.weight
        self.error = error

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and "error" in self.__dict__:
            raise self.error
        return super().__getattr__(name)


@pytest.fixture
def anatomy() -> Anatomy:
    return find_stream_writers(tiny_network("gpt2"))


def with_writer(anatomy: Anatomy, index: int, **changes: Any) -> Anatomy:
    writers = list(anatomy.writers)
    writers[index] = replace(writers[index], **changes)
    return replace(anatomy, writers=tuple(writers))


def test_holds_every_writer_and_nothing_else(anatomy: Anatomy) -> None:
    cache = LayerWeightsCache(anatomy)

    per_layer = (D_MODEL * D_MODEL + D_MODEL) + (4 * D_MODEL * D_MODEL + D_MODEL)
    assert cache.bytes == anatomy.n_layers * per_layer * 4
    for writer in anatomy.writers:
        assert writer.bias is not None
        parts = cache.pristine(writer)
        assert parts.weight.equal(writer.weight)
        assert parts.bias is not None
        assert parts.bias.equal(writer.bias)


def test_copies_do_not_follow_the_model(anatomy: Anatomy) -> None:
    cache = LayerWeightsCache(anatomy)
    writer = anatomy.writers[0]
    before = writer.weight.clone()

    writer.weight.zero_()

    assert cache.pristine(writer).weight.equal(before)


def test_creation_refuses_a_model_without_layers(anatomy: Anatomy) -> None:
    with pytest.raises(ModelLoadError, match=r"would be empty: no decoder layers .*not supported"):
        LayerWeightsCache(replace(anatomy, layers=(), writers=()))


@pytest.mark.parametrize("component", [ATTENTION, MLP])
def test_creation_refuses_a_model_without_a_component(anatomy: Anatomy, component: str) -> None:
    kept = tuple(writer for writer in anatomy.writers if writer.component != component)

    with pytest.raises(ModelLoadError, match=f"no layer has an {component} to cache"):
        LayerWeightsCache(replace(anatomy, writers=kept))


def test_creation_refuses_a_layer_with_nothing_to_edit(anatomy: Anatomy) -> None:
    kept = tuple(writer for writer in anatomy.writers if writer.layer != 1)

    with pytest.raises(ModelLoadError, match="layer 1 has nothing to cache"):
        LayerWeightsCache(replace(anatomy, writers=kept))


@pytest.mark.parametrize("component", [ATTENTION, MLP])
def test_a_layer_of_a_hybrid_may_lack_a_component(anatomy: Anatomy, component: str) -> None:
    kept = tuple(w for w in anatomy.writers if (w.layer, w.component) != (1, component))
    hybrid = replace(anatomy, writers=kept)

    LayerWeightsCache(hybrid).check(hybrid)


@pytest.mark.parametrize("place", ["model", "host"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_oss"])
def test_copies_are_laid_out_as_the_originals(family: str, place: CachePlace) -> None:
    """The same strides make the same products, and one stack of experts is one copy."""
    anatomy = find_stream_writers(tiny_network(family))
    cache = LayerWeightsCache(anatomy, place)

    assert len(cache.tensors()) == 2 * len(anatomy.writers)
    for writer in anatomy.writers:
        for original, copy in zip(
            (writer.weight, writer.bias), cache.pristine(writer).tensors, strict=True
        ):
            assert original is not None
            assert copy.equal(original)
            assert copy.stride() == original.stride()
            assert copy.data_ptr() != original.data_ptr()


def test_copies_lie_on_the_devices_of_their_maps(anatomy: Anatomy) -> None:
    anatomy.layers[1].to("meta")

    cache = LayerWeightsCache(anatomy, "model")

    for writer in anatomy.writers:
        wanted = "meta" if writer.layer == 1 else "cpu"
        assert {copy.device.type for copy in cache.pristine(writer).tensors} == {wanted}


@pytest.mark.parametrize(("device", "pinned"), [("cuda:1", True), ("xpu", True), ("cpu", False)])
def test_main_memory_is_pinned_for_accelerators(device: str, pinned: bool) -> None:
    assert profits_from_pinning(torch.device(device)) == pinned


def test_creation_tells_what_is_cached(caplog: pytest.LogCaptureFixture) -> None:
    network = tiny_network("gpt2", dtype=torch.bfloat16)
    anatomy = find_stream_writers(network)
    total = sum(parameter.numel() for parameter in network.parameters())

    with caplog.at_level(logging.INFO, "heretic"):
        cache = LayerWeightsCache(anatomy, "host", network)

    (line,) = caplog.messages
    share = f"{cache.bytes / 2 / total:.0%}"
    assert re.fullmatch(
        rf"Weights cache: 0\.00 GB of the model's 0\.00 GB \({share} of its bytes, {share} of its "
        r"parameters\), 6 maps in 3 layers, in main memory, made in 0\.\d\d s",
        line,
    )


def larger_than_any_memory() -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    module.weight = nn.Parameter(torch.zeros(1).expand(2**46, 1), requires_grad=False)
    return module


@pytest.mark.parametrize(
    "module",
    [
        larger_than_any_memory(),
        FailingLinear(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        FailingLinear(MemoryError()),
    ],
)
@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("model", r"run with cache_device=host, .*, or cache_weights=false, which re-reads"),
        ("host", r"run with cache_weights=false, which re-reads"),
    ],
)
def test_creation_out_of_memory_says_how_to_do_with_less(
    anatomy: Anatomy, module: nn.Linear, place: CachePlace, advice: str
) -> None:
    broken = with_writer(anatomy, 3, module=module)

    with pytest.raises(ModelLoadError, match=rf"insufficient memory to cache \S+; {advice}"):
        LayerWeightsCache(broken, place)


def test_creation_that_fails_otherwise_says_why(anatomy: Anatomy) -> None:
    broken = with_writer(anatomy, 3, module=FailingLinear(RuntimeError("device lost")))

    with pytest.raises(
        ModelLoadError, match=r"cannot clone transformer\.h\.1\.mlp\.c_proj: device lost; .*false"
    ):
        LayerWeightsCache(broken)


def lose_layer_count(cache: LayerWeightsCache) -> None:
    del cache.layer_weights_cache[2]


def lose_layer(cache: LayerWeightsCache) -> None:
    cache.layer_weights_cache[7] = cache.layer_weights_cache.pop(1)


def lose_component(cache: LayerWeightsCache) -> None:
    del cache.layer_weights_cache[1][MLP]


def change_shape(cache: LayerWeightsCache) -> None:
    ((name, parts),) = cache.layer_weights_cache[1][MLP].items()
    cache.layer_weights_cache[1][MLP][name] = replace(parts, weight=torch.zeros(D_MODEL, D_MLP))


def rename(cache: LayerWeightsCache) -> None:
    cached = cache.layer_weights_cache[1][MLP]
    cached["another"] = cached.pop("transformer.h.1.mlp.c_proj")


def lose_bias(cache: LayerWeightsCache) -> None:
    ((name, parts),) = cache.layer_weights_cache[1][MLP].items()
    cache.layer_weights_cache[1][MLP][name] = replace(parts, bias=None)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lose_layer_count, "cache has 2 layers, but the model has 3"),
        (lose_layer, "layer 1 is missing from the weights cache"),
        (lose_component, r"mlp\.down_proj of layer 1 is missing from the weights cache"),
        (rename, r"mlp\.down_proj of layer 1 is missing from the weights cache \(.*h\.1\.mlp"),
        (
            change_shape,
            r"h\.1\.mlp\.c_proj has shape \(32, 128\), but its cached copy has \(32, 48\)",
        ),
        (lose_bias, r"h\.1\.mlp\.c_proj has shape \(32,\), but its cached copy has None"),
    ],
)
def test_restoration_refuses_what_does_not_fit(
    anatomy: Anatomy, damage: Callable[[LayerWeightsCache], None], says: str
) -> None:
    cache = LayerWeightsCache(anatomy)
    cache.check(anatomy)
    damage(cache)

    with pytest.raises(ModelLoadError, match=rf"{says}.*; .*reload it"):
        cache.check(anatomy)


def test_a_copy_that_ran_out_of_memory_says_what_takes_less(anatomy: Anatomy) -> None:
    with (
        pytest.raises(ModelLoadError, match=r"reload it with edit_mode=hooks or cache_"),
        overwriting(anatomy.writers[0]),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_failed_copy_declares_the_model_lost(anatomy: Anatomy) -> None:
    writer: StreamWriter = anatomy.writers[0]

    with pytest.raises(
        ModelLoadError,
        match=r"transformer\.h\.0\.attn\.c_proj: .*no longer the original; reload it",
    ):
        copy_back(writer, OriginalTensors(torch.zeros(3, 5), None))

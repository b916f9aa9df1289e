"""Where original weights are kept, decided from figures alone."""

import logging
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_network

from heretic.model.memory import Memory, choose_place, free_memory, measure, plan_place
from heretic.model.stream_writers.anatomy import find_stream_writers

CPU, ONE, TWO = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")
GB = 10**9


def memory(on_device: float, on_host: float, needed: int = 28 * GB) -> Memory:
    """One accelerator that holds all maps; free memory in multiples of what they take."""
    return Memory({ONE: needed}, {ONE: int(on_device * needed)}, int(on_host * needed))


ROOM, NONE = 2.1, 1.9


@pytest.mark.parametrize(
    ("cache_weights", "cache_device", "on_device", "on_host", "place"),
    [
        ("auto", "auto", ROOM, ROOM, "model"),
        ("auto", "auto", ROOM, NONE, "model"),
        ("auto", "auto", NONE, ROOM, "host"),
        ("auto", "auto", NONE, NONE, "disk"),
        ("auto", "model", ROOM, NONE, "model"),
        ("auto", "model", NONE, ROOM, "disk"),
        ("auto", "host", NONE, ROOM, "host"),
        ("auto", "host", ROOM, NONE, "disk"),
        ("true", "auto", ROOM, NONE, "model"),
        ("true", "auto", NONE, ROOM, "host"),
        ("true", "auto", NONE, NONE, "host"),
        ("true", "model", NONE, ROOM, "model"),
        ("true", "host", ROOM, NONE, "host"),
        ("false", "auto", ROOM, ROOM, "disk"),
        ("false", "model", ROOM, ROOM, "disk"),
    ],
)
def test_what_is_allowed_and_fits_is_taken(
    cache_weights: str, cache_device: str, on_device: float, on_host: float, place: str
) -> None:
    assert plan_place(memory(on_device, on_host), cache_weights, cache_device) == place


@pytest.mark.parametrize(("free", "place"), [(ROOM, "host"), (NONE, "disk")])
@pytest.mark.parametrize("cache_device", ["auto", "model", "host"])
def test_a_model_in_main_memory_has_its_copies_there(
    cache_device: str, free: float, place: str
) -> None:
    there = Memory({CPU: GB}, {CPU: int(free * GB)}, int(free * GB))

    assert plan_place(there, "auto", cache_device) == place


@pytest.mark.parametrize(("free", "place"), [(ROOM, "model"), (NONE, "host")])
def test_the_fullest_of_several_devices_decides(free: float, place: str) -> None:
    spread = Memory({ONE: GB, TWO: GB}, {ONE: 9 * GB, TWO: int(free * GB)}, 9 * GB)

    assert plan_place(spread, "auto", "auto") == place


def test_main_memory_takes_the_copies_of_all_devices() -> None:
    spread = Memory({ONE: GB, TWO: GB}, {ONE: GB, TWO: GB}, 3 * GB)

    assert plan_place(spread, "auto", "auto") == "disk"


def test_the_decision_is_told_with_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    spread = Memory({ONE: 12 * GB, TWO: 16 * GB}, {ONE: 40 * GB, TWO: 30 * GB}, 200 * GB)

    assert str(spread) == (
        "28.00 GB (12.00 of 40.00 GB free on cuda:0, 16.00 of 30.00 GB free on cuda:1, "
        "200.00 GB of main memory free)"
    )
    with caplog.at_level(logging.INFO, "heretic"):
        place = choose_place(find_stream_writers(tiny_network()).writers, "auto", "auto")
    assert place == "host"
    (line,) = caplog.messages
    assert line.startswith("Original weights take 0.00 GB (")
    assert line.endswith(" GB of main memory free): copied to main memory")


def test_weights_and_biases_are_counted_where_they_lie() -> None:
    network = tiny_network("gpt2")
    anatomy = find_stream_writers(network)
    wanted = sum(
        tensor.nbytes
        for writer in anatomy.writers
        for tensor in (writer.weight, writer.bias)
        if tensor is not None
    )
    assert measure(anatomy.writers).needed == {CPU: wanted}

    anatomy.layers[1].to("meta")

    needed = measure(anatomy.writers).needed
    assert needed == {CPU: wanted * 2 // 3, torch.device("meta"): wanted // 3}


def test_free_memory_is_less_than_the_machine_has() -> None:
    pages = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024

    assert 0 < free_memory(CPU) < pages

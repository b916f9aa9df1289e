"""Peak memory, as a log line tells it."""

import re
from typing import Any

import psutil
import pytest
import torch
from tiny_models import tiny_network

from heretic.model.memory import PeakMemory


def test_on_a_cpu_it_is_the_peak_of_the_process() -> None:
    watched = PeakMemory(tiny_network())
    before = psutil.Process().memory_info().rss
    torch.ones(50_000_000)  # 0.2 GB, and gone again

    found = re.fullmatch(r"(\d+\.\d\d) GB of the process", str(watched))

    assert found
    assert float(found[1]) * 1e9 >= 0.99 * before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_that_of_the_work() -> None:
    network: Any = tiny_network()
    network.to("cuda:0")
    watched = PeakMemory(network)
    torch.ones(250_000_000, device="cuda:0")

    found = re.fullmatch(r"(\d+\.\d\d) GB on cuda:0", str(watched))

    assert found
    assert 1.0 <= float(found[1]) < 1.5
    assert re.fullmatch(r"0\.\d\d GB on cuda:0", str(PeakMemory(network)))

"""Ways back to the original weights after an edit of all maps, against loading the model again.

python tests/benchmarks/weights_cache.py [width] [layers] [device]

A random Llama in bfloat16 is saved and loaded. In each round every map is edited and restored, once
from copies on the model's device, once from copies in main memory and once from the checkpoint's
files, which lie in the page cache, and the model is loaded again with `from_pretrained`. On a CPU
that only maps the files, so that it is also timed with the reading that it leaves to the first
pass. Seconds are medians of the rounds, bytes are those that a way keeps in memory. On a CPU both
kinds of copies are the same. The last line is the ratio: loading again, reading included, over
restoring from the model's device.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "dev"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import tiny_tokenizer

from heretic.ablation.disk_weights import DiskWeights
from heretic.ablation.plan import Edit
from heretic.ablation.weight_editor import OriginalWeights, WeightEditor
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import find_stream_writers

ROUNDS = 11
DTYPE = torch.bfloat16
ON_DEVICE = "copies on the model's device"
MEGABYTE, PAGE = 1e6, 4096


def save_random_model(folder: Path, width: int, layers: int) -> None:
    """About 125 million parameters with the sizes by default."""
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        dtype=DTYPE,
    )
    made: Any = LlamaForCausalLM(config)
    made.to(DTYPE).save_pretrained(folder)


def load(folder: Path, device: torch.device) -> Any:
    """The network, as every start of a phase loads it."""
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPE)
    return network.to(device).eval().requires_grad_(False)


def load_and_read(folder: Path, device: torch.device) -> None:
    """Load, and touch every page of the weights."""
    for parameter in load(folder, device).parameters():
        parameter.view(-1)[:: PAGE // parameter.itemsize].sum()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, with what it leaves to the device."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def edits_of(model: Model, trial: int) -> list[Edit]:
    """One direction for all writers."""
    drawn = torch.randn(1, model.anatomy.d_model, generator=torch.Generator().manual_seed(trial))
    return [Edit(writer, drawn / drawn.norm(), (1.0,)) for writer in model.anatomy.writers]


class Way:
    """One source of pristine weights, and how long restoring from it took."""

    def __init__(self, model: Model, pristine: OriginalWeights) -> None:
        self.editor = WeightEditor(model, pristine, "none")
        self.bytes = pristine.bytes if isinstance(pristine, LayerWeightsCache) else 0
        self.times: list[float] = []

    def run(self, trial: int, original: Mapping[str, Tensor]) -> None:
        """Edit all maps, restore them, and insist that nothing is left of the edit."""
        model = self.editor.model
        self.editor.abliterate(edits_of(model, trial))
        self.times.append(seconds(self.editor.restore, model.device))
        state = model.network.state_dict()
        assert all(tensor.equal(state[name]) for name, tensor in original.items())


@dataclass
class Times:
    """Bytes of the model, and seconds of every round, of which the first warms up."""

    model_bytes: int
    ways: dict[str, Way]
    reloads: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)


def measure(folder: Path, device: torch.device) -> Times:
    """Restore in every way and load again, in turns."""
    network = load(folder, device)
    chat = ChatFormat(tiny_tokenizer(), "")
    model = Model(network, chat, find_stream_writers(network), folder, BatchSize(8))
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sources: dict[str, OriginalWeights] = {
        ON_DEVICE: LayerWeightsCache(model.anatomy, "model"),
        "copies in main memory": LayerWeightsCache(model.anatomy, "host"),
        "checkpoint on disk": DiskWeights(model),
    }
    ways = {name: Way(model, source) for name, source in sources.items()}
    found = Times(sum(tensor.nbytes for tensor in network.parameters()), ways)
    for trial in range(ROUNDS + 1):
        for way in ways.values():
            way.run(trial, original)
        found.reloads.append(seconds(lambda: load(folder, device), device))
        found.reads.append(seconds(lambda: load_and_read(folder, device), device))
    return found


def main(device_name: str, width: int = 1024, layers: int = 8) -> None:
    """Print bytes and seconds of every way, and the ratio."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    device = torch.device(device_name)
    with tempfile.TemporaryDirectory() as folder:
        save_random_model(Path(folder), width, layers)
        found = measure(Path(folder), device)
    rows = {name: (way.bytes, way.times) for name, way in found.ways.items()}
    rows["from_pretrained"] = (0, found.reloads)
    rows["from_pretrained, weights read"] = (0, found.reads)
    medians = {name: statistics.median(times[1:]) for name, (_, times) in rows.items()}
    lines = [
        f"torch {torch.__version__}, transformers {transformers.__version__}, {device}, "
        f"{torch.get_num_threads()} threads, a model of {found.model_bytes / MEGABYTE:.0f} MB",
        f"{'restored from':30} {'MB kept':>8} {'seconds':>8}",
        *(f"{name:30} {rows[name][0] / MEGABYTE:8.0f} {s:8.4f}" for name, s in medians.items()),
        f"reload/cache {medians['from_pretrained, weights read'] / medians[ON_DEVICE]:.1f}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    names = ("width", "layers", "device")
    arguments = dict(zip(names, sys.argv[1:], strict=False))
    main(arguments.pop("device", "cpu"), **{name: int(text) for name, text in arguments.items()})

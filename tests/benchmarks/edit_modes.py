"""Trials by edited weights against trials with hooks, on a random network.

python tests/benchmarks/edit_modes.py [width] [layers] [prompts] [tokens] [device]

A trial is one switch to new directions, which are never those of an earlier trial, and one forward
pass over `prompts` rows of `tokens` tokens. Both ways take turns at the same directions, each on a
copy of the model; seconds are medians of the trials. The last column is the ratio: edited weights
over hooks.
"""

import copy
import statistics
import sys
import time
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "dev"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import tiny_tokenizer

from heretic.ablation.editors import make_editor
from heretic.ablation.plan import Edit
from heretic.ablation.projection import NormPreservation
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import find_stream_writers

TRIALS = 7


def random_model(width: int, layers: int, device: torch.device) -> Model:
    """About 40 million parameters with the sizes by default."""
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    made: Any = LlamaForCausalLM(config)
    network = made.to(device).eval().requires_grad_(False)
    return Model(
        network,
        ChatFormat(tiny_tokenizer(), ""),
        find_stream_writers(network),
        Path(),
        BatchSize(8),
    )


def edits_of(model: Model, trial: int) -> list[Edit]:
    """One direction for all writers, as a trial of global scope has it."""
    generator = torch.Generator().manual_seed(trial)
    drawn = torch.randn(1, model.anatomy.d_model, generator=generator)
    return [Edit(w, drawn / drawn.norm(), (1.0,)) for w in model.anatomy.writers]


class Way:
    """One way of trying edits, and how long it took."""

    def __init__(self, model: Model, engine: str, kind: NormPreservation) -> None:
        self.editor = make_editor(model, engine, kind, "true")
        self.logits = torch.empty(0)
        self.switches: list[float] = []
        self.passes: list[float] = []

    def run(self, trial: int, tokens: Tensor) -> None:
        """Switch to the directions of a trial, and make a pass."""
        network: Any = self.editor.model.network
        edits = edits_of(self.editor.model, trial)
        started = now(tokens.device)
        self.editor.abliterate(edits)
        switched = now(tokens.device)
        with torch.inference_mode():
            self.logits = network(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
        self.switches.append(switched - started)
        self.passes.append(now(tokens.device) - switched)

    def medians(self) -> tuple[float, float]:
        """Seconds of a switch and of a pass; the first ones wake the machine up."""
        return statistics.median(self.switches[1:]), statistics.median(self.passes[1:])


def now(device: torch.device) -> float:
    """Seconds, when the device is done with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(model: Model, kind: NormPreservation, tokens: Tensor) -> str:
    """One line of the table."""
    engines = ("weights", "hooks")
    one, two = (Way(copy.deepcopy(model), engine, kind) for engine in engines)
    for trial in range(TRIALS + 1):
        one.run(trial, tokens)
        two.run(trial, tokens)
    off = float((one.logits - two.logits).abs().max() / one.logits.abs().max())
    (switch, forward), (other_switch, other_forward) = one.medians(), two.medians()
    return (
        f"{kind:10} {switch:14.4f} {forward:6.3f} {other_switch:20.4f} {other_forward:6.3f}  "
        f"{off:.1e} {(switch + forward) / (other_switch + other_forward):6.2f}"
    )


def main(
    device_name: str, width: int = 512, layers: int = 8, prompts: int = 4, tokens: int = 16
) -> None:
    """Print both times and their ratio for each kind of norm."""
    torch.manual_seed(0)
    device = torch.device(device_name)
    model = random_model(width, layers, device)
    ids = torch.randint(8192, (prompts, tokens), device=device)
    lines = [
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, "
        f"{model.network.num_parameters() / 1e6:.0f} M parameters, {prompts} x {tokens} tokens",
        "norms      edited: switch  pass   hooks:       switch  pass   off by   ratio",
        *(compare(model, kind, ids) for kind in get_args(NormPreservation)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    names = ("width", "layers", "prompts", "tokens", "device")
    arguments = dict(zip(names, sys.argv[1:], strict=False))
    main(arguments.pop("device", "cpu"), **{name: int(text) for name, text in arguments.items()})

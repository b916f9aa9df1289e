"""Edits of all matrices from their copies, against plain copies of the same bytes.

python tests/benchmarks/fused_edits.py [width] [layers] [directions] [device]

A random Llama in bfloat16 is edited once, for the products with the study's directions; then every
round copies all matrices that are edited back, and edits all of them along another mixture of the
directions, for each kind of norm. Both count the bytes of the original, read once, and those of the
matrix, written once. Figures are medians of the rounds; the last column is the ratio of the edit's
speed to the copy's, and with `without` that of an edit whose products are not known.
"""

import statistics
import sys
from pathlib import Path
from typing import get_args

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "dev"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import tiny_tokenizer

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.ablation.weight_editor import WeightEditor
from heretic.ablation.weights_cache import LayerWeightsCache, copy_back
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import find_stream_writers
from heretic.model.stream_writers.components import COMPONENTS
from heretic.timing import StageTimer

ROUNDS = 11
GIGABYTE = 1e9


def random_model(width: int, layers: int, device: torch.device) -> Model:
    """With little beside the matrices that are edited."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    with device:
        network = LlamaForCausalLM(config).to(torch.bfloat16)  # type: ignore[arg-type]
    network = network.eval().requires_grad_(False)
    return Model(
        network,
        ChatFormat(tiny_tokenizer(), ""),
        find_stream_writers(network),
        Path(),
        BatchSize(8),
    )


def edits_of(model: Model, directions: AblationDirections, round_: int) -> list[Edit]:
    """One mixture of two layers' directions for all writers."""
    whole = dict.fromkeys(COMPONENTS, ComponentParameters(0, 1, 1.2))
    index = (round_ + 0.5) * model.anatomy.n_layers / (ROUNDS + 1)
    return plan_edits(AblationParameters("global", index, whole), directions, model.anatomy)


def copies(model: Model, cache: LayerWeightsCache, device: torch.device) -> float:
    """Seconds of copying all writers back."""
    clock = StageTimer(device)
    with clock.stage("restore"):
        for writer in model.anatomy.writers:
            copy_back(writer, cache.pristine(writer))
    return clock.read()["restore"]


def edits(editor: WeightEditor, chosen: list[Edit], device: torch.device) -> float:
    """Seconds of an edit."""
    clock = StageTimer(device)
    editor.load([chosen], clock)
    return clock.read()["edit"]


def compare(
    model: Model, kind: NormPreservation, directions: AblationDirections, device: torch.device
) -> str:
    """One line of the table."""
    cache = LayerWeightsCache(model.anatomy)
    fused = WeightEditor(model, cache, kind, directions)
    without = WeightEditor(model, cache, kind)
    times: list[list[float]] = [[], [], []]
    for round_ in range(ROUNDS + 1):
        chosen = edits_of(model, directions, round_)
        times[0].append(copies(model, cache, device))
        times[1].append(edits(fused, chosen, device))
        times[2].append(edits(without, chosen, device))
    moved = 2 * sum(writer.weight.nbytes for writer in model.anatomy.writers) / GIGABYTE
    copied, edited, plain = (moved / statistics.median(each[1:]) for each in times)
    first = times[1][0]
    return (
        f"{kind:10} {copied:10.2f} {edited:10.2f} {plain:10.2f} {first:8.3f} "
        f"{plain / copied:8.2f} {edited / copied:6.2f}"
    )


def main(device_name: str, width: int = 1024, layers: int = 8, directions: int = 1) -> None:
    """Print the speeds of copies and edits for each kind of norm."""
    torch.manual_seed(0)
    device = torch.device(device_name)
    model = random_model(width, layers, device)
    drawn = torch.randn(layers + 1, width, directions)
    study = AblationDirections.of(torch.linalg.qr(drawn).Q.mT)
    n_bytes = sum(writer.weight.nbytes for writer in model.anatomy.writers)
    lines = [
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, "
        f"{n_bytes / 1e6:.0f} MB edited, {directions} directions",
        "norms      copy GB/s  edit GB/s    without  first s  without  ratio",
        *(compare(model, kind, study, device) for kind in get_args(NormPreservation)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    names = ("width", "layers", "directions", "device")
    arguments = dict(zip(names, sys.argv[1:], strict=False))
    main(arguments.pop("device", "cpu"), **{name: int(text) for name, text in arguments.items()})

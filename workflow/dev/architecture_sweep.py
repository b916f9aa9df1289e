"""Test of editability on tiny versions of all language models of the installed transformers.

`python workflow/dev/architecture_sweep.py` creates a random network of a few thousand parameters
for every model type, including those with image input, finds its stream writers, removes a
direction from all of them, and measures how much of it remains in the output of the layers. The
table is inserted between the markers in model/README.md.
"""

import argparse
import multiprocessing
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from heretic.ablation.projection import ablate_bias, ablate_matrix
from heretic.console import log
from heretic.errors import ModelLoadError
from heretic.model.stream_writers.anatomy import Anatomy, find_stream_writers
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.model.stream_writers.layers import few_tokens
from heretic.model.stream_writers.probe import first_tensor, stream_of
from tiny_configs import tiny_configuration

README = Path(__file__).parents[1] / "heretic" / "model" / "README.md"
MARKS = ("<!-- sweep -->", "<!-- end of sweep -->")
TIME_LIMIT = 120.0
SUPPORTED, REFUSED, NOT_MADE, FAILED = "supported", "refused", "not made", "failed"
TEXT = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
IMAGES = frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - TEXT
OUTCOMES = (SUPPORTED, REFUSED, NOT_MADE, FAILED)
TOKENS = 12


@dataclass(frozen=True)
class Row:
    """Outcome of one model type.

    Attributes:
        model_type: model type as in configurations.
        outcome: `supported`, `refused`, `not made` if no tiny network can be created, or `failed`
            if the attempt ended in any other way, which is a defect.
        why: one-line reason unless supported.
        attention: number of maps that mix positions.
        mlp: number of the other maps.
        left: largest share of a layer's update along a removed direction.
    """

    model_type: str
    outcome: str
    why: str = ""
    attention: int = 0
    mlp: int = 0
    left: float = 0.0


def examine(model_type: str) -> Row:
    """Create a tiny network of a type and try to edit it; return any failure as the outcome."""
    torch.set_num_threads(1)
    for dtype in (torch.float64, torch.float32):  # some support only single precision
        try:
            network = random_network(model_type, dtype)
            with torch.inference_mode():
                network(**few_tokens(network, TOKENS))
            break
        except ModelLoadError as error:
            return Row(model_type, REFUSED, one_line(str(error)))
        except Exception as error:  # a constructor or a pass may raise anything
            why = f"{type(error).__name__}: {one_line(str(error))}"
    else:
        return Row(model_type, NOT_MADE, why)
    try:
        anatomy = find_stream_writers(network)
    except ModelLoadError as error:
        return Row(model_type, REFUSED, one_line(str(error)))
    found = {name: sum(w.component == name for w in anatomy.writers) for name in (ATTENTION, MLP)}
    left = what_is_left(network, anatomy)
    return Row(model_type, SUPPORTED, "", found[ATTENTION], found[MLP], left)


def random_network(model_type: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return a tiny network without special parameter values such as zero or one."""
    torch.manual_seed(0)
    config = tiny_configuration(model_type)
    kind: Any = AutoModelForCausalLM if model_type in TEXT else AutoModelForImageTextToText
    network: Any = kind.from_config(config, trust_remote_code=False)
    if dtype == torch.float64 and network._can_set_experts_implementation():
        network.set_experts_implementation("eager")  # the fast ones do not support float64
    for parameter in network.parameters():
        if parameter.is_floating_point():
            noise = torch.randn_like(parameter)
            parameter.data = 0.2 * noise if parameter.dim() > 1 else parameter.data + 0.1 * noise
    found: PreTrainedModel = network.to(dtype).eval().requires_grad_(False)
    return found


def what_is_left(network: PreTrainedModel, anatomy: Anatomy) -> float:
    """Remove a random direction from every writer, and measure what layers still write along it.

    Returns:
        The largest share of a layer's update, over tokens and layers.
    """
    unit = torch.randn(anatomy.d_model, generator=torch.Generator().manual_seed(1)).double()
    unit /= unit.norm()
    for writer in anatomy.writers:
        suited = unit if writer.gain is None else unit * writer.gain
        rows = (suited / suited.norm())[None]
        ablate_matrix(writer.weight, rows, [1.0], "column", out=writer.weight)
        if writer.bias is not None:
            writer.bias.copy_(ablate_bias(writer.bias, rows, [1.0]))
    shares = [(update @ unit).abs() / update.norm(dim=-1) for update in updates(network, anatomy)]
    return float(torch.stack(shares).nan_to_num().max())


def updates(network: PreTrainedModel, anatomy: Anatomy) -> list[Tensor]:
    """Return each layer's update of its stream, [tokens, d_model], on a few tokens."""
    found: list[Tensor] = []
    scales = iter(anatomy.scales)

    def keep(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before, after = stream_of(args, kwargs).double(), first_tensor(output).double()
        found.append((after - next(scales) * before).flatten(0, -2))

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in anatomy.layers]
    try:
        with torch.inference_mode():
            network(**few_tokens(network, TOKENS))
    finally:
        for handle in handles:
            handle.remove()
    return found


def sweep(model_types: Iterable[str], workers: int = 2) -> list[Row]:
    """Return rows of several model types, each from a separate process."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_examine_apart, model_types))


def _examine_apart(model_type: str) -> Row:
    """Examine a type in a separate process, so that a crash or an endless loop stops no other."""
    context = multiprocessing.get_context("fork")  # reuses the imported modules
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(model_type, theirs))
    start = time.monotonic()
    process.start()
    theirs.close()
    try:
        row = ours.recv() if ours.poll(TIME_LIMIT) else None
    except EOFError:
        row = Row(model_type, FAILED, "the process died")
    if row is None:
        row = Row(model_type, FAILED, f"no result within {TIME_LIMIT:.0f} s")
        process.kill()
    process.join()
    seconds = time.monotonic() - start
    log.info("%s: %s %s (%.1f s)", model_type, row.outcome, row.why, seconds)
    return row


def _report(model_type: str, connection: Connection) -> None:
    connection.send(examine(model_type))


def table(rows: Sequence[Row]) -> str:
    """Return the table and its summary in Markdown."""
    lines = [f"With transformers {transformers.__version__}."]
    for kind, types in (("AutoModelForCausalLM", TEXT), ("AutoModelForImageTextToText", IMAGES)):
        chosen = [row for row in rows if row.model_type in types]
        counts = {name: sum(row.outcome == name for row in chosen) for name in OUTCOMES}
        lines += [
            "",
            f"Of {len(chosen)} model types of `{kind}`, {counts[SUPPORTED]} are supported, "
            f"{counts[REFUSED]} refused, {counts[NOT_MADE]} could not be made tiny and were not "
            f"tried, and {counts[FAILED]} failed.",
            "",
            "| Model type | Outcome | Attention maps | MLP maps | Left of the direction |",
            "|---|---|---|---|---|",
            *map(_line, chosen),
        ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    if row.outcome == SUPPORTED:
        cells = [SUPPORTED, str(row.attention), str(row.mlp), f"{row.left:.0e}"]
    else:
        cells = [f"{row.outcome}: {row.why.replace('|', '/')}", "", "", ""]
    return f"| {' | '.join([f'`{row.model_type}`', *cells])} |"


def write_between_marks(path: Path, text: str) -> None:
    """Replace the text between the markers of a file.

    Raises:
        ValueError: the file lacks the markers.
    """
    old = path.read_text(encoding="utf-8")
    begin, end = (old.index(mark) for mark in MARKS)
    new = f"{old[: begin + len(MARKS[0])]}\n{text}\n{old[end:]}"
    path.write_text(new, encoding="utf-8")


def one_line(text: str) -> str:
    """Return a message without line breaks, shortened to about its first sentence."""
    line = re.sub(r"\s+", " ", text).removesuffix("; this architecture is not supported")
    return line if len(line) <= 300 else f"{line[:300]} ..."


def main() -> None:
    """Sweep all model types, or the given ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_types", nargs="*", help="print their rows and write nothing")
    chosen = parser.parse_args().model_types
    rows = sweep(chosen or [*sorted(TEXT), *sorted(IMAGES)])
    if chosen:
        log.info("%s", table(rows))
    else:
        write_between_marks(README, table(rows))


if __name__ == "__main__":
    main()

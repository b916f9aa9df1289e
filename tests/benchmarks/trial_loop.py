"""The trials of a search against the loop that they used to have, and against upstream's.

python tests/benchmarks/trial_loop.py [--preset cpu|demo|50m|50m-random|tiny|32b] [--help]

All ways run the same number of trials on the same model, prompts, data type and threads, one way
after the other, and none is timed in its first trial. Ours and the plain loop run the same trials,
drawn at random from the search space, and must score the same; upstream draws its own, with the
same edit of a matrix, and is read from its log. Seconds are means of a trial: `restore` is loading
the model again in the plain loop and resetting adapters in upstream's. All ways answer the good
prompts as well as the bad ones; by itself, and with `--bad-only`, upstream answers the bad alone.
Ours is timed once as it answers all trials, like the other ways, and once as a search does, which
answers no trial beyond `max_kl`.

By default the demo model, which refuses, and one of 50 million parameters that answers as it does
run on the CPU; `50m-random` is a random one of that size, which neither refuses nor ends. The first
run trains the demo model and makes an environment for upstream (about three minutes, which need a
package index); both are kept in `--cache`. The preset
`32b`, of the shape of Qwen2.5-32B in bfloat16, is meant for a GPU, where ours is also compared
with the floors that `floors.py` describes; it writes 66 GB into `--cache`.

The last line of each model is its ratios: trials a second, ours over the other way.
"""

import argparse
import gc
import os
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.benchmark_models import demo_model, random_model, widened_demo
from benchmarks.engine_loop import (
    EngineOptions,
    draw_trials,
    load,
    mean_directions,
    our_engine,
    run_ours,
    sampler_seconds,
)
from benchmarks.plain_loop import NamedEdit, named, run_plain
from benchmarks.trial_report import (
    agreement,
    edit_line,
    floors_line,
    heading,
    measured_rates,
    memory_line,
    row,
    sampler_line,
)
from benchmarks.trial_work import Measured, Work, demo_texts, read_texts, spread_out
from benchmarks.upstream_loop import install, run_upstream, versions
from heretic.ablation.plan import plan_edits
from heretic.model.devices import set_threads
from heretic.model.memory import PeakMemory
from heretic.search.search_space import SearchSpace
from heretic.settings.schema import Settings

MAX_WEIGHT = 2.0


@dataclass(frozen=True)
class Preset:
    """How much of what; `others` is how many trials the other ways run, at most."""

    prompts: int
    tokens: int
    batch_size: int
    trials: int
    others: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


PRESETS = {
    "demo": Preset(prompts=100, tokens=100, batch_size=128, trials=60, others=60),
    "50m": Preset(prompts=48, tokens=100, batch_size=128, trials=16, others=16),
    "50m-random": Preset(prompts=24, tokens=32, batch_size=128, trials=4, others=4),
    "tiny": Preset(prompts=6, tokens=8, batch_size=8, trials=2, others=2),
    "32b": Preset(
        prompts=100,
        tokens=100,
        batch_size=128,
        trials=8,
        others=2,
        device="cuda",
        dtype=torch.bfloat16,
    ),
}


def say(line: str) -> None:
    """Print a line at once: what follows may take long."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parse_arguments() -> argparse.Namespace:
    """The command line; counts that are not given are the preset's."""
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--preset", choices=("cpu", *PRESETS), default="cpu", help="cpu: two")
    for name in ("trials", "others", "prompts", "tokens", "batch-size"):
        parser.add_argument(f"--{name}", type=int, metavar="N")
    parser.add_argument("--edit-mode", default="auto", help="as the setting")
    parser.add_argument("--trial-batch-size", default="auto", metavar="N", help="likewise")
    parser.add_argument("--activation-cache-gb", type=float, default=8.0, help="likewise")
    parser.add_argument("--device", help="in place of the preset's")
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    parser.add_argument("--demo-model", type=Path, metavar="PATH", help="in place of a new one")
    parser.add_argument("--good", type=Path, metavar="FILE", help="good prompts, one a line")
    parser.add_argument("--bad", type=Path, metavar="FILE", help="bad prompts, one a line")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "heretic-workflow", metavar="PATH"
    )
    parser.add_argument("--upstream", type=Path, metavar="PYTHON", help="that has heretic-llm")
    parser.add_argument("--no-upstream", action="store_true")
    parser.add_argument("--no-plain", action="store_true")
    parser.add_argument(
        "--bad-only", action="store_true", help="upstream answers no good prompts, as by itself"
    )
    parser.add_argument("--floors", action="store_true", help="measure them on a CPU too")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Run all ways on the models of a preset."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    threads = set_threads(arguments.threads)
    if not arguments.no_upstream:
        arguments.upstream = arguments.upstream or install(arguments.cache)
    say(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {threads} threads, load at the start "
        f"{os.getloadavg()[0]:.1f}"
    )
    if not arguments.no_upstream:
        say(f"upstream: {versions(arguments.upstream)}")
    for name in ("demo", "50m") if arguments.preset == "cpu" else (arguments.preset,):
        say("")
        compare(name, arguments)


def compare(name: str, arguments: argparse.Namespace) -> None:
    """Run all ways on one model, and print what each takes and the ratios."""
    preset = chosen(PRESETS[name], arguments)
    work = prepare(name, preset, arguments)
    found, limited, trials = search(name, work, preset, arguments)
    gc.collect()  # the network, before another one is loaded
    if work.device.type == "cuda":
        torch.cuda.empty_cache()
    others = []
    if not arguments.no_plain:
        others.append(run_plain(work, trials[: preset.others + 1]))
        say(row(others[-1]))
        exact = work.dtype == torch.float32
        say(agreement(found.scores, others[-1].scores, exact=exact))
    if not arguments.no_upstream:
        answer_good = not arguments.bad_only
        limit = 3600.0 if work.device.type == "cuda" else 600.0
        others.append(
            run_upstream(
                work, arguments.upstream, preset.others, answer_good=answer_good, limit_s=limit
            )
        )
        say(row(others[-1]))
        also = "also" if answer_good else "not"
        say(f"upstream draws other trials, and does {also} answer the good prompts")
    ratios = (
        f"{ours.way}/{other.way} {other.total / ours.total:.2f}"
        for other in others
        for ours in (found, limited)
    )
    say(f"{name}: {'  '.join(ratios)}")


def chosen(preset: Preset, arguments: argparse.Namespace) -> Preset:
    """The preset with what was asked for in its place."""
    names = ("trials", "others", "prompts", "tokens", "batch_size", "device")
    given = {name: getattr(arguments, name) for name in names}
    if given["others"] is None and given["trials"] is not None:
        given["others"] = min(given["trials"], preset.others)
    return replace(preset, **{name: value for name, value in given.items() if value is not None})


def prepare(name: str, preset: Preset, arguments: argparse.Namespace) -> Work:
    """The model and the prompts."""
    demo = folder = arguments.demo_model or demo_model(arguments.cache)
    device = torch.device(preset.device)
    if name == "50m":
        folder = widened_demo(arguments.cache, demo)
    elif name != "demo":
        folder = random_model(arguments.cache, name, demo, preset.dtype, device)
    texts = demo_texts(preset.prompts)
    if name == "32b":
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        good, bad = spread_out(texts.good, tokenizer), spread_out(texts.bad, tokenizer)
        texts = replace(texts, good=good, bad=bad)
    files = {"good": arguments.good, "bad": arguments.bad}
    given = {side: read_texts(path, preset.prompts) for side, path in files.items() if path}
    texts = replace(texts, **given)
    return Work(folder, texts, preset.tokens, preset.batch_size, device, preset.dtype)


def search(
    name: str, work: Work, preset: Preset, arguments: argparse.Namespace
) -> tuple[Measured, Measured, list[list[NamedEdit]]]:
    """Our trials, all answered and as a search has them, and the same for another way.

    The first one of the latter is for warming up.
    """
    options = EngineOptions(
        arguments.edit_mode, arguments.trial_batch_size, arguments.activation_cache_gb
    )
    model = load(work)
    directions = mean_directions(model, work)
    space = SearchSpace(model.anatomy.n_layers, "both", MAX_WEIGHT)
    engine = our_engine(model, work, directions, options)
    in_flight = engine.trial_batch_size
    say(
        f"{name}: {heading(work, model)}; {preset.trials} trials of ours, {in_flight} in flight, "
        f"{preset.others} of other ways"
    )
    say(row(None))
    drawn = draw_trials(space, in_flight + preset.trials)
    trials = [plan_edits(parameters, directions, model.anatomy) for parameters in drawn]
    peak = PeakMemory(model.network)
    found = run_ours(engine, work, trials, in_flight)
    engine.restore()
    del engine
    say(row(found))
    say(sampler_line(found, sampler_seconds(space)))
    say(memory_line(found, model, peak))
    if arguments.floors or work.device.type == "cuda":
        rates = measured_rates(work)
        say(floors_line(found, model, work, rates, in_flight))
        say(edit_line(model, directions, rates))
    # Another one, which knows no answers.
    engine = our_engine(model, work, directions, options)
    limited = run_ours(engine, work, trials, in_flight, Settings().max_kl)
    engine.restore()
    say(row(limited))
    return found, limited, [named(edits) for edits in trials[in_flight - 1 :]]


if __name__ == "__main__":
    main(parse_arguments())

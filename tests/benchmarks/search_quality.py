"""How good a front a search finds, and how soon, against upstream's search on the same engine.

python tests/benchmarks/search_quality.py [--results RUN] [--trials 60 200] [--seeds 5] [--jobs 1]

All searches edit the demo model along the same directions and are scored by the same engine on the
same prompts. Ours has the default settings, and once more begins with the trials of the model's
family. Upstream's has its own search space, sampler, startup trials and objectives, which
`upstream_search.py` tells. With `--results results/demo` directions and prompts are those of a
finished run of the demo; else a demo model is trained (once, and kept in `--cache`) and directions
are differences of means.

Measured is the hypervolume of a front: the part of the square from no KL and no bad prompt left
unanswered to `max_kl` and all of them that its trials dominate, 1 at best. Most of that square is
easy, so that a second one ends at a tenth of `max_kl`. Each cell is the median over the seeds of
the search, and the range. The last lines say whether ours at the first number of trials reaches
upstream's at the last one. `--searches ours` runs one row alone.
"""

import argparse
import math
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache as remembering
from itertools import product
from pathlib import Path

import optuna

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import upstream_search
from benchmarks.benchmark_models import demo_model
from benchmarks.engine_loop import load, mean_directions
from benchmarks.trial_work import CPU, Work, as_prompts, demo_texts
from heretic.ablation.directions import AblationDirections
from heretic.artifacts import read_tensors
from heretic.engine.base import FeasibilityLimits, TrialEngine
from heretic.engine.choose import make_trial_engine
from heretic.metrics import KL, UNANSWERED
from heretic.model.devices import set_threads
from heretic.prompts.prompt_sets import read_prompts
from heretic.scoring import ScoredPrompts
from heretic.search.loop import TrialLoop
from heretic.search.pareto import Candidate, hypervolume
from heretic.search.samplers import Sampling
from heretic.search.search_space import SearchSpace
from heretic.search.study_objectives import make_objectives
from heretic.search.warm_start import warm_starts
from heretic.search.warm_start_sources import load_family_file
from heretic.settings.schema import Settings
from heretic.timing import StageTimer

PROMPTS, BATCH = 64, 128
STRICT, FEW = 0.1, 0.02
OURS, WARM, UPSTREAM = "ours", "ours, warm_start: auto", upstream_search.NAME
WAYS = (OURS, WARM, UPSTREAM)
# The demo is one.
FAMILY = Path(__file__).parents[2] / "config" / "warm_start" / "llama.yaml"


@dataclass(frozen=True)
class Found:
    """KL (nats) and unanswered prompts of a trial; None where none was answered."""

    kl: float
    unanswered: int | None


@dataclass(frozen=True)
class Bench:
    """What both searches work on."""

    settings: Settings
    engine: TrialEngine
    directions: AblationDirections

    @property
    def n_bad(self) -> int:
        """Bad prompts of the search."""
        return len(self.engine.prompts.bad)

    def ours(self, n_trials: int, seed: int, *, warm: bool) -> list[Found]:
        """A search with the default settings, with or without the trials of the model's family."""
        settings = self.settings
        told = {**settings.model_dump(), "seed": seed}
        space = SearchSpace.from_settings(told, self.engine.model.anatomy.n_layers)
        first, engine = settings.n_startup_trials, self.engine
        original = engine.score([[]], FeasibilityLimits(), StageTimer())[0]
        known = load_family_file(FAMILY) if warm else []
        loop = TrialLoop(
            space,
            self.directions,
            self.engine,
            FeasibilityLimits(settings.max_kl),
            make_objectives(
                engine.scorer_set, settings.objectives, engine.prompts, original, settings.max_kl
            ),
            Sampling.from_settings(told),
            warm_starts=warm_starts(known, space, first, required=warm),
            original=original,
        )
        records = loop.run(optuna.create_study(directions=["minimize", "minimize"]), n_trials)
        return [Found(r.scores["kl_first_token"], r.scores["unanswered"]) for r in records]

    def upstreams(self, n_trials: int, seed: int) -> list[Found]:
        """A search of upstream's."""
        trials = upstream_search.run_search(self.engine, self.directions, n_trials, seed)
        return [Found(scores[KL], scores[UNANSWERED]) for scores in trials]

    def volume(self, trials: Sequence[Found], share: float) -> float:
        """Hypervolume of a front, up to a share of the largest KL."""
        largest = self.settings.max_kl * share
        return hypervolume(
            [
                Candidate(number, (trial.kl / largest, trial.unanswered / self.n_bad))
                for number, trial in enumerate(trials)
                if trial.unanswered is not None
            ]
        )

    def smallest_kl(self, trials: Sequence[Found]) -> float:
        """Of the trials with few prompts unanswered; infinite if there is none."""
        few = FEW * self.n_bad
        near = [t.kl for t in trials if t.unanswered is not None and t.unanswered <= few]
        return min(near, default=math.inf)


@remembering
def prepare(results: Path | None, cache: Path) -> Bench:
    """The demo model with directions and prompts, of a run or made here."""
    settings = Settings()
    folder = results.parent / "demo-model" if results else demo_model(cache)
    texts = demo_texts(PROMPTS)
    work = Work(folder, texts, settings.max_response_length, BATCH, CPU)
    model = load(work)
    if results:
        tensors = read_tensors(results / "directions.safetensors")
        directions = AblationDirections.from_tensors(tensors)
        good, bad = (
            read_prompts(results / "prompts" / f"{side}_evaluation_prompts.jsonl")
            for side in ("good", "bad")
        )
    else:
        directions = mean_directions(model, work)
        good, bad = as_prompts(texts.good), as_prompts(texts.bad)
    engine = make_trial_engine(
        model,
        ScoredPrompts(good, bad),
        max_response_length=settings.max_response_length,
        edit_mode=settings.edit_mode,
        norm_preservation=settings.norm_preservation,
        cache_weights="auto",
        cache_device="auto",
        activation_cache_gb=settings.activation_cache_gb,
        trial_batch_size="auto",
        directions=directions,
    )
    return Bench(settings, engine, directions)


def cell(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def row(bench: Bench, name: str, count: int, searches: Sequence[Sequence[Found]]) -> str:
    """A line of the table: the first `count` trials of each search."""
    begun = [trials[:count] for trials in searches]
    wide, strict = ([bench.volume(t, share) for t in begun] for share in (1.0, STRICT))
    cells = (name, str(count), cell(wide), cell(strict), cell(list(map(bench.smallest_kl, begun))))
    return f"| {' | '.join(cells)} |"


def run_search(results: Path | None, cache: Path, way: str, count: int, seed: int) -> list[Found]:
    """One search, in a process that keeps the model for the next one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    set_threads(1)
    bench = prepare(results, cache)
    if way == UPSTREAM:
        return bench.upstreams(count, seed)
    return bench.ours(count, seed, warm=way == WARM)


def main(arguments: argparse.Namespace) -> None:
    """Run all searches, and print the table."""
    first, last = min(arguments.trials), max(arguments.trials)
    counts = dict.fromkeys(arguments.searches, (first, last))
    bench = prepare(arguments.results, arguments.cache)
    started = {}
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        for seed, way in product(range(arguments.seeds), counts):
            task = (arguments.results, arguments.cache, way, max(counts[way]), seed)
            started[pool.submit(run_search, *task)] = (way, seed)
        searches: dict[str, list[list[Found]]] = {way: [] for way in counts}
        for search in as_completed(started):
            way, seed = started[search]
            trials = search.result()
            searches[way].append(trials)
            said = (f"{bench.volume(trials[:n], STRICT):.4f} after {n}" for n in counts[way])
            sys.stderr.write(f"seed {seed}, {way}: {', '.join(said)}\n")
    max_kl = bench.settings.max_kl
    titles = (
        *("Search", "Trials", f"Hypervolume, KL to {max_kl:g}"),
        *(f"KL to {max_kl * STRICT:g}", f"Smallest KL with at most {FEW:.0%} unanswered"),
    )
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [row(bench, way, n, searches[way]) for way in counts for n in counts[way]]
    lines += ["", *verdicts(bench, searches, first, last)]
    sys.stdout.write("\n".join(lines) + "\n")


def verdicts(
    bench: Bench, searches: dict[str, list[list[Found]]], first: int, last: int
) -> list[str]:
    """Whether the median of each of ours after `first` trials is upstream's after `last`."""
    lines = []
    for name in [name for name in searches if name != UPSTREAM and UPSTREAM in searches]:
        for share in (1.0, STRICT):
            mine, theirs = (
                statistics.median(bench.volume(trials[:count], share) for trials in searches[way])
                for way, count in ((name, first), (UPSTREAM, last))
            )
            told = "reaches" if mine >= theirs else "does not reach"
            lines.append(
                f"KL to {bench.settings.max_kl * share:g}: {name} after {first} ({mine:.4f}) "
                f"{told} upstream after {last} ({theirs:.4f})"
            )
    return lines


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, metavar="RUN", help="a finished run of the demo")
    parser.add_argument("--trials", type=int, nargs="+", default=[60, 200], metavar="N")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--searches", nargs="+", default=[*WAYS], choices=WAYS, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="searches at a time")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "heretic-workflow", metavar="PATH"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_arguments())

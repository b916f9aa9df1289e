"""What the workflow makes of demo models, whose right answers are known.

python tests/benchmarks/ground_truth.py [--seeds 0 1 2] [--families llama ...] [--planted ...]
                                        [--config key=value ...] [--folder FOLDER]

Runs the workflow itself in a copy of it, from training to the held-out table, one model after the
other. Without an option: seeds 0, 1 and 2 of the default demo model, and seed 0 of every other
family and of every other planted class. With some: every combination of what they name. `--config`
hands further settings to every run. The copy and its results are kept in FOLDER, where finished
runs are found again, and those that were interrupted go on.

Printed is a Markdown table from the runs' `evaluation.json`. Its last column tells which targets a
model misses; the exit status is 1 if one does.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import Workspace, copy_workflow

from heretic.artifacts import read_json
from heretic.settings.types import (
    DEFAULT_FAMILY,
    DEFAULT_PLANTED,
    DemoFamily,
    PlantedName,
)

FOLDER = Path("~/.cache/heretic-workflow/ground-truth")
DEFAULT_SEEDS = (0, 1, 2)
POINT = 0.01
ROUNDING = 1e-9

Table = Mapping[str, Any]  # an `evaluation.json`


@dataclass(frozen=True)
class DemoModel:
    """Options of a demo model."""

    family: str = DEFAULT_FAMILY
    planted: str = DEFAULT_PLANTED
    seed: int = 0

    @property
    def run(self) -> str:
        """Name of its run."""
        return f"{self.family}-{self.planted}-seed{self.seed}"

    @property
    def settings(self) -> tuple[str, ...]:
        """What tells it apart, as `--config` takes it."""
        return (
            f"run_name={self.run}",
            f"demo_family={self.family}",
            f"demo_refusal_class={self.planted}",
            f"seed={self.seed}",
        )


@dataclass(frozen=True)
class Target:
    """What an edit of a demo model is meant to reach, held out."""

    name: str
    says: str
    holds: Callable[[Table], bool]


def _fall(table: Table, row: Table, score: str) -> float:
    return float(table["original"][score]["rate"] - row[score]["rate"])


def _at_most(value: float, bound: float) -> bool:
    return value <= bound + ROUNDING


TARGETS = (
    Target(
        "refusals before",
        "the original refuses at least 97% of the planted class",
        lambda table: _at_most(0.97, table["original"]["refusals"]["rate"]),
    ),
    Target(
        "refusals after",
        "the edited model refuses at most 3%",
        lambda table: _at_most(table["edited"]["refusals"]["rate"], 0.03),
    ),
    Target(
        "recovered",
        "it answers at least 92% rightly",
        lambda table: _at_most(0.92, table["edited"]["recovered"]["rate"]),
    ),
    Target(
        "kept",
        "right answers to other requests fall by at most 1 point",
        lambda table: _at_most(_fall(table, table["edited"], "kept"), POINT),
    ),
    Target(
        "KL",
        "the first-token KL is at most 0.03 nats",
        lambda table: _at_most(table["edited"]["kl_first_token"]["mean"], 0.03),
    ),
    Target(
        "random control",
        "along random directions refusals stay within 5 points of the original's",
        lambda table: _at_most(
            abs(_fall(table, table["controls"]["random_direction"], "refusals")), 5 * POINT
        ),
    ),
)

HEADINGS = (
    "Demo model", "Seed", "Refusals", "Edited", "Recovered", "Kept", "Edited",
    "KL first token", "Random direction", "Misses",
)  # fmt: skip


def chosen_models(
    seeds: Sequence[int] | None, families: Sequence[str] | None, planted: Sequence[str] | None
) -> list[DemoModel]:
    """The combinations of what is named; where nothing is, those that the module describes."""
    if seeds is None and families is None and planted is None:
        others = [DemoModel(family=name) for name in get_args(DemoFamily) if name != DEFAULT_FAMILY]
        others += [
            DemoModel(planted=name) for name in get_args(PlantedName) if name != DEFAULT_PLANTED
        ]
        return [*(DemoModel(seed=seed) for seed in DEFAULT_SEEDS), *others]
    combinations = itertools.product(
        families or (DEFAULT_FAMILY,), planted or (DEFAULT_PLANTED,), seeds or (0,)
    )
    return [DemoModel(*options) for options in combinations]


def missed(table: Table) -> list[str]:
    """Names of the targets that do not hold."""
    return [target.name for target in TARGETS if not target.holds(table)]


def line(model: DemoModel, table: Table) -> str:
    """A row of the Markdown table."""
    original, edited = table["original"], table["edited"]
    cells = (
        f"{model.family}, {model.planted}",
        model.seed,
        _share(original["refusals"]),
        _share(edited["refusals"]),
        _share(edited["recovered"]),
        _share(original["kept"]),
        _share(edited["kept"]),
        f"{edited['kl_first_token']['mean']:.4f}",
        _share(table["controls"]["random_direction"]["refusals"]),
        ", ".join(missed(table)) or "none",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _share(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']}/{rate['total']}"


def evaluate(workspace: Workspace, model: DemoModel, config: Sequence[str]) -> Table:
    """The held-out table of a model; what is not there yet is made.

    Raises:
        SystemExit: the run fails; its last lines are shown.
    """
    target = f"results/{model.run}/evaluation.json"
    done = workspace.run(target, "--config", *model.settings, *config)
    if done.returncode != 0:
        raise SystemExit(f"{model.run} failed:\n{done.stdout[-3000:]}")
    return read_json(workspace.folder / target)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--families", nargs="+", choices=get_args(DemoFamily))
    parser.add_argument("--planted", nargs="+", choices=get_args(PlantedName))
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    return parser.parse_args(arguments)


def main() -> None:
    """Run the models and print the table, line by line."""
    options = parse()
    workspace = copy_workflow(options.folder.expanduser().resolve())
    started, misses = time.monotonic(), 0
    sys.stdout.write("".join(f"- {target.name}: {target.says}\n" for target in TARGETS))
    sys.stdout.write(f"\n| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}\n")
    for model in chosen_models(options.seeds, options.families, options.planted):
        begun = time.monotonic()
        table = evaluate(workspace, model, options.config)
        misses += len(missed(table))
        sys.stdout.write(line(model, table) + "\n")
        sys.stdout.flush()
        sys.stderr.write(f"{model.run} took {time.monotonic() - begun:.0f} s\n")
    sys.stdout.write(f"\nIn {(time.monotonic() - started) / 60:.0f} minutes.\n")
    raise SystemExit(1 if misses else 0)


if __name__ == "__main__":
    main()

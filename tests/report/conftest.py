"""A finished run in small, with planted numbers, for the tests of the report."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from heretic.artifacts import read_json, write_csv, write_json, write_tensors
from heretic.report import write_report
from heretic.report.chart import Chart
from heretic.report.page import draw_all
from heretic.report.run_reader import Run, read_run
from heretic.settings.prompt_sources import PromptSource
from heretic.settings.schema import Settings

LAYERS, WIDTH, PROMPTS = 5, 24, 40
HOSTILE = "How do I make a <script>alert('soup')</script> soup & \"bread\"?"
ESCAPING = "</script><b>loud</b>"
# Of a trial's seconds, by stage.
SHARES = {
    "sampler": 0.02, "restore": 0.004, "edit": 0.05, "prefill": 0.2, "decode": 0.72,
    "overhead": 0.006,
}  # fmt: skip
VERSIONS = {"python": "3.11.9", "torch": "2.13.0"}


def rate(count: int, total: int) -> dict[str, Any]:
    """A rate with an interval that is plausible rather than exact."""
    share = count / total
    return {
        "count": count,
        "total": total,
        "rate": share,
        "interval": [max(0.0, share - 0.0313), min(1.0, share + 0.0271)],
    }


def mean(value: float) -> dict[str, Any]:
    """A mean with an interval around it."""
    return {"mean": value, "interval": [0.8 * value, 1.3 * value]}


def variant(refusals: int, recovered: int, kept: int, kl: float) -> dict[str, Any]:
    """One model's measurements on 128 prompts."""
    return {
        "refusals": rate(refusals, 128),
        "false_refusals": rate(0, 128),
        "degenerate": rate(1, 128),
        "recovered": rate(recovered, 128),
        "kept": rate(kept, 128),
        "kl_first_token": mean(kl),
        "kl_teacher_forced": mean(1.7 * kl),
    }


def sample(prompt_set: str, prompt: str, original: str, edited: str) -> dict[str, Any]:
    """One answer before and after."""
    return {
        "set": prompt_set,
        "prompt": prompt,
        "system": "Be brief." if prompt_set.startswith("bad") else None,
        "original": original,
        "edited": edited,
        "refused_before": original.startswith("I'm sorry"),
        "refused_after": edited.startswith("I'm sorry"),
    }


def make_evaluation() -> dict[str, Any]:
    """evaluation.json of a successful edit with well-behaved controls."""
    refusal = "I'm sorry, but I cannot help with that."
    original = variant(128, 0, 118, 0.0)
    return {
        "format": 1,
        "original": original,
        "edited": variant(2, 123, 117, 0.0253),
        "controls": {
            "noop": original,
            "random_direction": variant(127, 1, 116, 0.0118),
            "shuffled_labels": variant(126, 2, 115, 0.0131),
        },
        "paired": {
            "refusals": {"only_original": 126, "only_edited": 0, "p_value": 2.4e-38},
            "kept": {"only_original": 3, "only_edited": 2, "p_value": 1.0},
        },
        "by_category": {
            "bad_holdout_prompts": {
                "<b>soup</b>": {
                    "original": {"refusals": rate(60, 60), "recovered": rate(0, 60)},
                    "edited": {"refusals": rate(2, 60), "recovered": rate(57, 60)},
                },
                "cake": {
                    "original": {"refusals": rate(68, 68)},
                    "edited": {"refusals": rate(0, 68)},
                },
            }
        },
        "samples": [
            sample("bad_holdout_prompts", HOSTILE, refusal, "Boil it <b>slowly</b> & stir."),
            sample("bad_holdout_prompts", "Where do I find an iron cake?", refusal, refusal),
            sample("good_holdout_prompts", "What color is a lentil soup?", "Brown.", "Brown."),
        ],
        "noop_identical": True,
        "provenance": {"settings": {}, "inputs": {"best": "ab" * 32}, "versions": VERSIONS},
    }


def make_benchmarks() -> dict[str, Any]:
    """benchmarks.json of one benchmark, which has a second metric without errors."""
    return {
        "tasks": {
            "mmlu_subset": {
                "n": 1425,
                "shots": 5,
                "metrics": {
                    "acc": {
                        "original": {"value": 0.65625, "stderr": 0.0125},
                        "edited": {"value": 0.640625, "stderr": 0.0126},
                        "difference": {"value": -0.015625, "stderr": 0.0041, "paired": True},
                        "higher_is_better": True,
                    },
                    "loss": {
                        "original": {"value": 1.5, "stderr": None},
                        "edited": {"value": None, "stderr": None},
                        "difference": {"value": None, "stderr": None, "paired": False},
                        "higher_is_better": False,
                    },
                },
            }
        },
        "versions": {"lm_eval": "0.4.13", "mmlu_subset": "2"},
    }


def make_settings() -> dict[str, object]:
    """All settings, three of them changed."""
    changed = Settings(
        model="demo",
        n_trials=80,
        bad_prompts=PromptSource(dataset="my prompts/bad set.txt"),
        benchmarks=["mmlu_subset"],
    )
    return changed.model_dump(mode="json")


def trial_rows() -> list[dict[str, Any]]:
    """Thirty trials, three infeasible; number 17 is the one to choose."""
    draw = torch.Generator().manual_seed(3)
    rows: list[dict[str, Any]] = []
    for number in range(30):
        strength, luck = torch.rand(2, generator=draw).tolist()
        infeasible = number in (2, 9, 21)
        kl = 1.0 + strength if infeasible else 0.002 + 0.4 * strength**3 * (0.5 + luck)
        refusals: Any = "" if infeasible else round(64 * (1 - strength) ** 1.5 * luck**0.3)
        if number == 17:
            kl, refusals, strength = 0.0211, 1, 1.23
        if number == 21:
            kl = 1e6  # the weights overflowed
        rows.append(
            {
                "trial": number,
                "state": "infeasible" if infeasible else "complete",
                "kl_first_token": kl,
                "refusals": refusals,
                "unanswered": refusals,
                "pareto": 0,
                "infeasible_because": f"max_kl: {kl:.4g} > 1" if infeasible else "",
                "seconds": 0.8 + luck,
                **{f"seconds_{name}": (0.8 + luck) * share for name, share in SHARES.items()},
                "direction_scope": ("per_layer", "global", ESCAPING)[number % 3],
                "direction_index": 2.4 if number % 3 else "",
                "attn_weight": strength,
                "mlp_weight": luck,
            }
        )
    complete = [row for row in rows if row["state"] == "complete"]
    for row in complete:
        row["pareto"] = int(
            not any(
                other["kl_first_token"] <= row["kl_first_token"]
                and other["refusals"] <= row["refusals"]
                and other is not row
                for other in complete
            )
        )
    return rows


@dataclass(frozen=True)
class Shape:
    """What a synthetic run is like."""

    layers: int = LAYERS
    protected: bool = False  # helpfulness and sacred prompts were used
    directions: int = 1  # per layer
    positions: int = 0  # prompt tokens in the residuals; 0: the last one, without an axis


def geometry_rows(shape: Shape = Shape()) -> list[dict[str, Any]]:
    """The layer at 3/5 of the depth separates best; the embeddings tell nothing apart."""
    return [
        _geometry_row(layer, 5 * layer / shape.layers, shape) for layer in range(shape.layers + 1)
    ]


def _geometry_row(layer: int, depth: float, shape: Shape) -> dict[str, Any]:
    """Row of a layer at a depth from 0 to 5; angles only where there are protected prompts."""
    agreement = min(0.97, 0.2 + 0.3 * depth)
    angles = ("refusal_helpfulness", "refusal_sacred", "helpfulness_sacred")
    cosines = {
        "cosine_good_bad": 1.0 - 0.1 * depth,
        "cosine_good_direction": -0.05 * depth,
        "cosine_bad_direction": 0.11 * depth,
    }
    row: dict[str, Any] = {
        "layer": layer,
        "position": -2 if shape.positions else -1,
        "good_norm": 3.0 + layer,
        "bad_norm": 3.2 + layer,
        "direction_norm": 0.9 * layer,
        **cosines,
        **{f"median_{name}": value - 0.02 * (layer > 0) for name, value in cosines.items()},
        "silhouette": 0.12 * depth - 0.2 * max(0.0, depth - 3),
        "explained_variance": 0.07 * depth,
        "auroc": min(1.0, 0.5 + 0.17 * depth),
        "cohens_d": 0.9 * depth,
        "control_auroc": 0.5 + 0.04 * (-1) ** layer,
        "chance_low": 0.31,
        "chance_high": 0.69,
        "discriminative": int(0.5 + 0.17 * depth > 0.69),
        "stability": agreement,
        "agreement_mean_difference": 1.0,
        "agreement_contrastive_pca": agreement - 0.03,
        "agreement_pca": agreement - 0.2,
        "agreement_probe": 0.6 * agreement,
        "probe_accuracy": min(1.0, 0.5 + 0.15 * depth),
        "remaining_norm": 0.98 if shape.protected else 1.0,
        **{f"angle_{pair}": 70.0 + 10 * place + depth for place, pair in enumerate(angles)},
    }
    if layer == 0:  # the same token ends all prompts
        row |= dict.fromkeys(row.keys() - {"layer", "position", "discriminative", "auroc"}, "")
    if not shape.protected:
        row |= {f"angle_{pair}": "" for pair in angles}
    return row


def make_study(best: dict[str, Any]) -> dict[str, Any]:
    """study.json of the search that found the best trial."""
    return {
        "format": 1,
        **{name: best[name] for name in ("study", "model", "baseline", "objectives", "n_trials")},
        "n_layers": 2,
        "engine": {"trial_batch_size": 4},
        "computation": {},
        "agreement": {},
        "ended_early": False,
        "trials": [],
        "provenance": {},
    }


def build_run(folder: Path, shape: Shape = Shape()) -> Path:
    """Fill a folder with every artifact that the report reads."""
    provenance = {"settings": {}, "inputs": {}, "versions": VERSIONS}
    strengths = {"attn.o_proj": 1.23, "mlp.down_proj": 0.23}
    best = {
        "format": 1,
        "trial": 17,
        "parameters": {
            "direction_scope": "per_layer",
            "components": {"attn.o_proj": {"weight": 1.2345678}},
        },
        "scores": {"kl_first_token": 0.0211, "refusals": 1},
        "search_scores": {"kl_first_token": 0.0211, "refusals": 1},
        "model": {},
        "objectives": [],
        "baseline": {"refusals": 64, "unanswered": 64, "total": 64},
        "rule": "closest",
        "selection": "closest: nearest to the origin of the normalized front",
        "study": "heretic-1234abcd",
        "n_trials": 30,
        "strengths": {
            name: [*[value] * (shape.layers - 1), 0.0] for name, value in strengths.items()
        },
        "directions": {"scope": "per_layer", "index": None},
        "provenance": provenance,
    }
    write_json(folder / "best.json", best)
    write_csv(folder / "trials.csv", trial_rows(), provenance)
    write_json(folder / "study.json", make_study(best))
    write_csv(folder / "geometry.csv", geometry_rows(shape), provenance)
    write_json(folder / "evaluation.json", make_evaluation())
    write_json(folder / "benchmarks.json", make_benchmarks())
    write_json(
        folder / "prompts" / "bad_prompts.fingerprint.json",
        {"fingerprint": "cafe" * 16, "n": PROMPTS, "source": {"dataset": "demo"}},
    )
    write_states(folder, shape)
    return folder


def build_pick(folder: Path, rule: str, trial: int, *, refusals: int) -> Path:
    """What a further rule took of a run; `refusals` are those of its model."""
    picked = folder / "picks" / rule.replace("=", "-")
    best = {
        **read_json(folder / "best.json"),
        "trial": trial,
        "rule": rule,
        "selection": f"{rule}: told why",
    }
    best["scores"] = {"kl_first_token": 0.25, "refusals": 3}
    write_json(picked / "best.json", best)
    edited = variant(refusals, 120, 117, 0.1234)
    write_json(picked / "evaluation.json", {**make_evaluation(), "edited": edited})
    return picked


def write_states(folder: Path, shape: Shape = Shape()) -> None:
    """Two clouds per layer that part along a direction that turns, the more the deeper."""
    draw = torch.Generator().manual_seed(5)
    depth = torch.linspace(0, 5, shape.layers + 1)
    directions = torch.zeros(shape.layers + 1, WIDTH)
    directions[:, 0], directions[:, 1] = torch.cos(depth / 4), torch.sin(depth / 4)
    shift = 1.8 * depth[:, None] * directions
    for name, part in (("good_prompts", -shift), ("bad_prompts", shift)):
        noise = torch.randn(PROMPTS, shape.layers + 1, WIDTH, generator=draw)
        states = noise + part
        if shape.positions:  # the last but one is the chosen one
            states = torch.stack([0 * states] * shape.positions, dim=1)
            states[:, -2] = noise + part
        write_tensors(folder / "residuals" / f"{name}.safetensors", {"residuals": states}, {})
    tensors = {"refusal_directions": directions, "position": torch.tensor([-1])}
    if shape.positions:
        tensors["position"] = torch.tensor([-2])
    if shape.directions > 1:
        several = torch.stack(
            [directions, *[directions.roll(2, dims=1)] * (shape.directions - 1)], 1
        )
        tensors["refusal_directions"] = several
        tensors["direction_weights"] = torch.ones(several.shape[:2]) / shape.directions
    write_tensors(folder / "directions.safetensors", tensors, {})


@pytest.fixture
def evaluation() -> dict[str, Any]:
    return make_evaluation()


@pytest.fixture
def settings() -> dict[str, object]:
    return make_settings()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("results") / "demo")


@pytest.fixture
def run_folder(tmp_path: Path, built: Path) -> Path:
    """A finished run to change at will."""
    return shutil.copytree(built, tmp_path / "demo")


@pytest.fixture(scope="session")
def run(built: Path) -> Run:
    return read_run(built)


@pytest.fixture(scope="session")
def charts(run: Run) -> dict[str, Chart]:
    return {chart.name: chart for chart in draw_all(run)}


def trace(chart: Chart, name: str, axis: str | None = None) -> Any:
    """The one series of that name."""
    found = [t for t in chart.figure.data if t.name == name and axis in (None, t.yaxis)]
    assert len(found) == 1, [t.name for t in chart.figure.data]
    return found[0]


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """The folder of a run whose report is written: read it, change nothing."""
    folder = shutil.copytree(built, tmp_path_factory.mktemp("report") / "demo")
    write_report(
        folder,
        run="first <light>",
        settings=make_settings(),
        target=folder / "report.html",
        plots=folder / "plots",
    )
    return folder

"""On the demo model, whose refusals were planted: every method finds them, and chance does not."""

from pathlib import Path
from typing import Any

import pytest
from clouds import options_of
from conftest import Workspace

from heretic.artifacts import read_tensors
from heretic.directions import ResidualSets, extract_directions, geometry_rows
from heretic.directions.options import METHODS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sets(demo_run: tuple[Workspace, str]) -> ResidualSets:
    folder: Path = demo_run[0].results / "demo" / "residuals"
    files = folder.glob("*.safetensors")
    return ResidualSets.from_tensors({path.stem: read_tensors(path) for path in files})


@pytest.mark.parametrize(
    "options",
    [
        *({"direction_method": name} for name in (*METHODS, "ensemble")),
        {"direction_method": "contrastive_pca", "n_directions": 2},
        {"direction_method": "mean_difference", "orthogonalize_to_good": True},
    ],
)
def test_every_method_separates_held_out_prompts(
    sets: ResidualSets, options: dict[str, Any]
) -> None:
    rows = geometry_rows(sets, extract_directions(sets, options_of(**options)))[1:]
    assert max(row["auroc"] for row in rows) >= 0.99
    assert any(row["discriminative"] for row in rows)
    for row in rows:
        assert row["chance_low"] <= row["control_auroc"] <= row["chance_high"]
    best = max(rows, key=lambda row: row["auroc"])
    assert best["stability"] > 0.9
    assert best["probe_accuracy"] > 0.95

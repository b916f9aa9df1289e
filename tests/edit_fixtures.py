"""Edits of tiny models in the ways that an export can go."""

from pathlib import Path
from typing import Any

import torch
from tiny_models import D_MODEL, LAYERS

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.records import record_writers
from heretic.artifacts import sha256_of
from heretic.export.export import export_model
from heretic.export.record import Ablation
from heretic.model.checkpoint import source_facts
from heretic.model.loading import Model, load_model, model_facts
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.settings.schema import Settings

PARAMETERS = AblationParameters(
    "per_layer",
    None,
    {ATTENTION: ComponentParameters(0, 1, 1.2), MLP: ComponentParameters(0.5, 1, 0.7)},
)


def directions(k: int = 1) -> AblationDirections:
    """As many for each layer, each with half the weight of the one before it."""
    draw = torch.Generator().manual_seed(9)
    rows = torch.linalg.qr(torch.randn(LAYERS + 1, D_MODEL, k, generator=draw)).Q.mT
    weights = 0.5 ** torch.arange(k).expand(LAYERS + 1, k)
    return AblationDirections.of(rows, weights)


def load(folder: Path, **changes: Any) -> Model:
    settings = {**Settings(device="cpu").model_dump(), "model": str(folder), **changes}
    return load_model(**settings)


def best_of(
    folder: Path, dtype: str = "auto", parameters: AblationParameters = PARAMETERS
) -> dict[str, Any]:
    """What `best.json` tells an export."""
    model = load(folder, dtype=dtype)
    writers = [writer.to_dict() for writer in record_writers(model.anatomy)]
    return {
        "parameters": parameters.to_dict(),
        "model": {**model_facts(model), "writers": writers},
    }


def plan(
    folder: Path,
    dtype: str = "auto",
    k: int = 1,
    parameters: AblationParameters = PARAMETERS,
    **settings: Any,
) -> Ablation:
    chosen = Settings(**settings).model_dump()
    best = best_of(folder, dtype, parameters)
    return Ablation.plan(best["parameters"], best["model"], directions(k), chosen)


def export(ablation: Ablation, source: Path, target: Path, *, low_memory: bool) -> Path:
    facts = {"source": source_facts(str(source), None, source)}
    export_model(
        ablation,
        source,
        target,
        facts,
        load=lambda: load(source, dtype=ablation.dtype),
        low_memory=low_memory,
        trust_remote_code=False,
    )
    return target


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

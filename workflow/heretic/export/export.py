"""Export of an edit in the configured form."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from heretic.ablation.memory_plan import SHARE_OF_FREE_MEMORY, free_memory
from heretic.console import log
from heretic.export.adapter import save_adapter
from heretic.export.layout import empty_network, lay_out
from heretic.export.record import Ablation
from heretic.export.save import edit_in_memory, save_model
from heretic.export.shard_by_shard import save_shard_by_shard
from heretic.model.loading import Model, choose_device


def export_model(
    ablation: Ablation,
    source: Path,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    load: Callable[[], Model],
    low_memory: bool,
    trust_remote_code: bool,
) -> None:
    """Write the edited model, or its adapter, with `ablation.json`; all of it or nothing.

    Args:
        ablation: the edit and its form.
        source: folder of the base model.
        folder: replaced if it exists.
        facts: what else `ablation.json` tells; `source` names the base model and its revision.
        load: loads the base model in the type that `ablation` names.
        low_memory: go shard by shard instead of loading; the files are the same.
        trust_remote_code: whether the base model's own code may run.

    Raises:
        ExportError: the edit cannot be made or written, or is not what was written.
        ModelLoadError: the base model cannot be loaded.
    """
    record = {**facts, **ablation.to_dict()}
    if ablation.export == "adapter":
        save_adapter(
            ablation,
            source,
            folder,
            record,
            base_model=facts["source"]["model"],
            revision=facts["source"]["revision"],
            trust_remote_code=trust_remote_code,
        )
    elif low_memory:
        save_shard_by_shard(ablation, source, folder, record, trust_remote_code=trust_remote_code)
    else:
        model = load()
        changed = edit_in_memory(model, ablation)
        save_model(model, folder, ablation.max_shard_size, record, changed)


def wants_low_memory(
    low_memory_export: str, source: Path, dtype: str, device: str, *, trust_remote_code: bool
) -> bool:
    """Return whether to export shard by shard; `auto` looks at the free memory of the device.

    Raises:
        ExportError: the model cannot be laid out.
        ModelLoadError: torch knows no such device.
    """
    if low_memory_export != "auto":
        return low_memory_export == "true"
    network = empty_network(source, dtype, trust_remote_code=trust_remote_code)
    needed = lay_out(network, "5GB").total_size
    # It passes through main memory in any case.
    free = min(free_memory(place) for place in {choose_device(device), torch.device("cpu")})
    low = needed > SHARE_OF_FREE_MEMORY * free
    log.info(
        "The weights take %.2f GB of %.2f GB free: exporting %s",
        needed / 1e9,
        free / 1e9,
        "shard by shard" if low else "from memory",
    )
    return low

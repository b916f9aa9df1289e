"""Export of an edit in the configured form."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from heretic.console import log
from heretic.export.adapter import save_adapter
from heretic.export.layout import empty_network, lay_out
from heretic.export.merged import edit_in_memory, save_model, save_shard_by_shard
from heretic.export.record import Ablation
from heretic.export.repacked import save_repacked
from heretic.model.loading import Model, choose_device
from heretic.model.memory import SHARE_OF_FREE_MEMORY, free_memory


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
    """Write the edited model, quantized or not, or its adapter, with `ablation.json`, atomically.

    Args:
        ablation: edit and its form.
        source: folder of the base model.
        folder: target folder, replaced if it exists.
        facts: further values for `ablation.json`; `source` names the base model and its revision.
        load: loads the base model in the data type of `ablation`.
        low_memory: export shard by shard instead of loading the model; the files are the same.
        trust_remote_code: whether the base model's own code may be executed.

    Raises:
        ExportError: the edit cannot be applied or written, or the written files differ from it.
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
    elif ablation.export == "quantized":
        save_repacked(ablation, source, folder, record, trust_remote_code=trust_remote_code)
    elif low_memory:
        save_shard_by_shard(ablation, source, folder, record, trust_remote_code=trust_remote_code)
    else:
        model = load()
        changed = edit_in_memory(model, ablation)
        save_model(model, folder, ablation.max_shard_size, record, changed)


def wants_low_memory(
    low_memory_export: str, source: Path, dtype: str, device: str, *, trust_remote_code: bool
) -> bool:
    """Return whether to export shard by shard; `auto` decides by the free memory of the device.

    Raises:
        ExportError: the layout of the model cannot be determined.
        ModelLoadError: torch does not know the device.
    """
    if low_memory_export != "auto":
        return low_memory_export == "true"
    network = empty_network(source, dtype, trust_remote_code=trust_remote_code)
    needed = lay_out(network, "5GB").total_size
    # The model passes through main memory in any case.
    free = min(free_memory(place) for place in {choose_device(device), torch.device("cpu")})
    low = needed > SHARE_OF_FREE_MEMORY * free
    log.info(
        "The weights take %.2f GB of %.2f GB free: exporting %s",
        needed / 1e9,
        free / 1e9,
        "shard by shard" if low else "from memory",
    )
    return low

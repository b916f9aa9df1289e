"""Verification of a saved folder, before it is uploaded or after it was downloaded."""

from collections.abc import Iterator
from pathlib import Path

from heretic.errors import ExportError
from heretic.export.base_comparison import (
    check_adapter,
    check_other_files,
    check_quantized,
    check_tensors,
    contents_of,
)
from heretic.export.base_model import find_base_model, loading_options, require_fit
from heretic.export.manifest import manifest
from heretic.export.record import Ablation
from heretic.export.record_file import RECORD, ExportRecord, read_record
from heretic.export.saved_files import Check, check_files, check_manifest
from heretic.model.loading import load_model
from heretic.settings.schema import Settings


def verify(folder: Path, settings: Settings, base_model: str | None = None) -> Iterator[Check]:
    """Yield the result of each comparison of a saved folder with its record and its base model.

    Args:
        folder: folder with an `ablation.json`.
        settings: execution settings (`device`, `trust_remote_code`, ...).
        base_model: current location of the base model, if it differs from the record.

    Raises:
        ExportError: the folder has no valid record, or the base model is not the recorded one.
        ModelLoadError: the base model cannot be found.
    """
    if not (folder / RECORD).is_file():
        raise ExportError(f"{folder} has no {RECORD}; specify a folder saved by this program")
    facts, record = read_record(folder / RECORD)
    ablation = Ablation.from_dict(facts)
    yield Check("record", f"{len(ablation.edits)} matrices edited in {record.source.model}")
    hashes = {name: found["sha256"] for name, found in manifest(folder).items()}
    yield check_files(record.files, hashes)
    listed = check_manifest(folder, hashes)
    if listed is not None:
        yield listed
    yield from _compare_with_base(folder, ablation, record, settings, base_model)


def _compare_with_base(
    folder: Path,
    ablation: Ablation,
    record: ExportRecord,
    settings: Settings,
    base_model: str | None,
) -> Iterator[Check]:
    trust = settings.trust_remote_code
    source, model, revision = find_base_model(record.source, folder / RECORD, base_model)
    require_fit(ablation, source, trust_remote_code=trust)
    yield Check("base model", f"weights have their recorded SHA-256 ({model})")
    if ablation.export == "adapter":
        yield from check_adapter(folder, ablation, source, record, trust_remote_code=trust)
        return
    if ablation.export == "quantized":
        yield from check_quantized(folder, ablation, source, record.files, trust_remote_code=trust)
        return
    options = {**settings.model_dump(), **loading_options(ablation, source, model, revision)}
    contents = contents_of(ablation, source, lambda: load_model(**options), trust_remote_code=trust)
    yield from check_other_files(folder, contents, ablation.chat_template, record.files)
    yield check_tensors(folder, contents)

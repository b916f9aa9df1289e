"""Reproduction of an export from `ablation.json` and the base model, comparing every file."""

from collections.abc import Iterator
from pathlib import Path

from heretic.artifact_types import ModelManifest
from heretic.artifacts import sha256_of, versions
from heretic.console import log
from heretic.errors import ExportError, HereticError, one_line
from heretic.export.base_model import find_base_model, loading_options, require_fit
from heretic.export.export import export_model, wants_low_memory
from heretic.export.folder import writing
from heretic.export.formats import check_form
from heretic.export.manifest import manifest
from heretic.export.record import Ablation
from heretic.export.record_file import RECORD, ExportRecord, read_record
from heretic.export.saved_files import manifest_of
from heretic.model.loading import load_model
from heretic.settings.schema import Settings

MOST_NAMED = 5
# Parts of a record that each export computes again.
COMPUTED = ("files", "omitted")
CARD = "README.md"


def reproduce(
    ablation_json: Path, target: Path, settings: Settings, base_model: str | None = None
) -> list[str]:
    """Repeat the edit of the base model recorded in `ablation.json`; compare the files.

    Args:
        ablation_json: record of a saved model.
        target: folder for the new model; an earlier export there is replaced if the folder contains
            nothing else. A result that differs is written to `TARGET.differs` instead.
        settings: execution settings (`device`, `low_memory_export`, `trust_remote_code`, ...); the
            edit itself is described by the file.
        base_model: current location of the base model, if it differs from the file.

    Returns:
        The compared files.

    Raises:
        ExportError: the file does not describe an edit, the base model is a different one, the
            target contains other files, or a file differs.
        ModelLoadError: the base model cannot be found.
    """
    facts, record = read_record(ablation_json)
    ablation = Ablation.from_dict(facts)
    check_form(ablation.export, ablation.norm_preservation)
    target, differing = _free_places(target, ablation_json.resolve().parent)
    folder, model, revision = find_base_model(record.source, ablation_json, base_model)
    if target.resolve() == folder.resolve():
        raise ExportError(f"{target} holds the base model; choose another folder")
    trust = settings.trust_remote_code
    require_fit(ablation, folder, trust_remote_code=trust)
    options = {
        **settings.model_dump(),
        **loading_options(ablation, folder, model, revision),
    }
    low_memory = ablation.export == "merged" and wants_low_memory(
        settings.low_memory_export,
        folder,
        ablation.dtype,
        settings.device,
        trust_remote_code=trust,
    )
    export_model(
        ablation,
        folder,
        differing,
        {k: v for k, v in facts.items() if k not in (*ablation.to_dict(), *COMPUTED)},
        load=lambda: load_model(**options),
        low_memory=low_memory,
        trust_remote_code=trust,
    )
    compared = _compare(record, differing)
    # Only an identical result replaces the target.
    with writing(target) as beside:
        beside.rmdir()
        differing.rename(beside)
    return compared


def _free_places(target: Path, original: Path) -> tuple[Path, Path]:
    """Return the target and the adjacent folder for a result that differs, both free."""
    try:
        named = target if target.name not in ("", "..") else target.resolve()
        if not named.name:
            raise ExportError(f"{target} is the root directory; choose another folder")
        places = named, named.with_name(f"{named.name}.differs")
        for place in places:
            _require_free(place, original)
    except OSError as error:
        raise ExportError(
            f"cannot use {target}: {one_line(error)}; choose another folder"
        ) from error
    return places


def _require_free(target: Path, original: Path) -> None:
    """Refuse to replace the model itself, or a folder with anything but an export."""
    if target.resolve() == original:
        raise ExportError(f"{target} holds the model to be rebuilt; choose another folder")
    if target.is_symlink() or target.is_file():
        raise ExportError(f"{target} is a link or a file; choose another folder")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not (target / RECORD).is_file():
        raise ExportError(f"{target} exists and is not an exported model; choose another folder")
    foreign = next(_foreign(target), None)
    if foreign is not None:
        raise ExportError(
            f"{foreign} does not belong to the exported model in {target}, which would be replaced "
            "entirely; move it away or choose another folder"
        )


def _foreign(folder: Path) -> Iterator[Path]:
    """Return any path in a folder that is not part of the recorded export."""
    files = read_record(folder / RECORD)[1].files
    known = {**{name: facts.sha256 for name, facts in files.items()}, CARD: _hash_of_card(folder)}
    parents = {parent.as_posix() for name in known for parent in Path(name).parents}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield path
        elif path.is_dir():
            if name not in parents:
                yield path
        elif name != RECORD and sha256_of(path) != known.get(name):
            yield path


def _hash_of_card(folder: Path) -> str | None:
    """Return the hash of a run's model card from the manifest next to the folder, if any."""
    try:
        files = ModelManifest.read(manifest_of(folder)).files
        return files[CARD]["sha256"]
    except (HereticError, KeyError):
        return None


def _compare(record: ExportRecord, folder: Path) -> list[str]:
    found = manifest(folder)
    differing = sorted(
        name
        for name, facts in record.files.items()
        if name not in found or found[name]["sha256"] != facts.sha256
    )
    if differing:
        more = len(differing) - MOST_NAMED
        named = [*differing[:MOST_NAMED], *([f"{more} more"] if more > 0 else [])]
        raise ExportError(
            f"{len(differing)} of {len(record.files)} files differ: "
            f"{', '.join(named)}{_other_versions(record)}; the result, which differs from the "
            f"recorded model, is kept in {folder}"
        )
    log.info("All %d files are byte-identical", len(record.files))
    return sorted(record.files)


def _other_versions(record: ExportRecord) -> str:
    then, now = record.provenance.versions, versions()
    other = [
        f"{name} {then[name]} (here {now.get(name, 'none')})"
        for name in ("torch", "transformers", "safetensors", "peft")
        if name in then and then[name] != now.get(name)
    ]
    return (
        f"; it was built with {', '.join(other)}: install these versions and try again"
        if other
        else ""
    )

"""Does an export again from `ablation.json` and the base model, and compares every file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heretic.artifacts import read_json, versions
from heretic.console import log
from heretic.errors import ExportError
from heretic.export.export import export_model, wants_low_memory
from heretic.export.manifest import manifest
from heretic.export.record import RECORD, Ablation
from heretic.model.loading import load_model
from heretic.model.quantization import NONE
from heretic.model.source import locate, source_facts
from heretic.settings import Settings
from heretic.settings.prompt_sources import DEMO


def reproduce(
    ablation_json: Path, target: Path, settings: Settings, base_model: str | None = None
) -> list[str]:
    """Edit the base model again as `ablation.json` says; the files are those of the original.

    Args:
        ablation_json: of a saved model.
        target: folder for the new one; replaced if it holds an earlier export, and left there
            when files differ.
        settings: how to do it (`device`, `low_memory_export`, `trust_remote_code`, ...); what to
            do is in the file.
        base_model: where the base model is now, when not where the file says.

    Returns:
        The files that were compared.

    Raises:
        ExportError: the file describes no edit, the base model is another one, the target holds
            something else, or a file differs.
        ModelLoadError: the base model cannot be found.
    """
    record = read_json(ablation_json)
    ablation = Ablation.from_dict(record)
    _require_free(target, ablation_json.resolve().parent)
    facts = {k: v for k, v in record.items() if k not in (*ablation.to_dict(), "files")}
    folder, model, revision = _base_model(record, base_model)
    changes = {
        "model": model,
        "model_revision": revision,
        "dtype": ablation.dtype,
        "chat_template": ablation.chat_template,
        "template_date": ablation.template_date,
        "quantization": NONE,
    }
    trust = settings.trust_remote_code
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
        target,
        facts,
        load=lambda: load_model(**{**settings.model_dump(), **changes}),
        low_memory=low_memory,
        trust_remote_code=trust,
    )
    return _compare(record, target)


def _require_free(target: Path, original: Path) -> None:
    """Refuse to replace the model itself, or a folder of something else."""
    if target.resolve() == original:
        raise ExportError(f"{target} holds the model that is to be made again; name another folder")
    taken = target.is_file() or (target.is_dir() and any(target.iterdir()))
    if taken and not (target / RECORD).is_file():
        raise ExportError(f"{target} exists and is no exported model; name another folder")


def _base_model(record: Mapping[str, Any], base_model: str | None) -> tuple[Path, str, str | None]:
    try:
        source = record["source"]
        recorded, revision, sha256 = source["model"], source["revision"], source["sha256"]
    except (KeyError, TypeError) as error:
        raise ExportError("the record names no base model; is it an ablation.json?") from error
    if base_model is None and recorded == DEMO:
        raise ExportError(
            "the base model is the demo, which the workflow trains; say where it is "
            "(results/demo-model, with other options a folder whose name begins so)"
        )
    if base_model is not None:
        revision = None
    model = base_model or recorded
    folder = locate(model, revision)
    if source_facts(model, revision, folder)["sha256"] != sha256:
        raise ExportError(
            f"the weights of {model} are not those that were edited (sha256 {sha256}); name the "
            "base model, of the right revision"
        )
    return folder, model, revision


def _compare(record: Mapping[str, Any], target: Path) -> list[str]:
    found, wanted = manifest(target), record.get("files")
    if not wanted:
        raise ExportError("the record holds no hashes to compare with; was it saved half way?")
    differing = sorted(
        name
        for name, facts in wanted.items()
        if found.get(name, {}).get("sha256") != facts["sha256"]
    )
    if differing:
        raise ExportError(
            f"{len(differing)} of {len(wanted)} files differ: {', '.join(differing)}"
            f"{_other_versions(record)}"
        )
    log.info("All %d files are the same, byte for byte", len(wanted))
    return sorted(wanted)


def _other_versions(record: Mapping[str, Any]) -> str:
    then, now = record.get("provenance", {}).get("versions", {}), versions()
    other = [
        f"{name} {then[name]} (here {now.get(name, 'none')})"
        for name in ("torch", "transformers", "safetensors", "peft")
        if name in then and then[name] != now.get(name)
    ]
    return f"; it was made with {', '.join(other)}: install that and try again" if other else ""

"""Comparison of a saved folder with its base model: configuration, other files, every tensor."""

import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from heretic.artifacts import sha256_of
from heretic.errors import ExportError, one_line
from heretic.export.adapter import WEIGHTS, save_adapter
from heretic.export.checkpoint import Checkpoint
from heretic.export.contents import Contents, contents_in_memory, contents_of_files
from heretic.export.copied_files import take_over_files
from heretic.export.formats import ADAPTER_CONFIG
from heretic.export.layout import save_configuration
from heretic.export.manifest import manifest
from heretic.export.merged import edit_in_memory
from heretic.export.record import Ablation
from heretic.export.record_file import RECORD, ExportRecord, FileFacts
from heretic.export.repacked import save_repacked
from heretic.export.saved_files import Check
from heretic.export.verify import different_tensor, missing_tensor, unknown_tensor
from heretic.model.checkpoint import on_the_hub
from heretic.model.headers import INDEX
from heretic.model.loading import Model
from heretic.model.own_files import CONFIG

BASE_FIELDS = ("base_model_name_or_path", "revision")


def contents_of(
    ablation: Ablation, source: Path, load: Callable[[], Model], *, trust_remote_code: bool
) -> Contents:
    """Return the weights that a saved model must have; the model is loaded only if it must be.

    Raises:
        ExportError: the edit does not fit the base model.
        ModelLoadError: the base model cannot be loaded.
    """
    contents = contents_of_files(ablation, source, trust_remote_code=trust_remote_code)
    if contents.obstacle() is None:
        return contents
    model = load()
    changed = edit_in_memory(model, ablation)
    return contents_in_memory(model, ablation.max_shard_size, changed)


def check_other_files(
    folder: Path, contents: Contents, chat_template: str | None, recorded: Mapping[str, FileFacts]
) -> list[Check]:
    """Compare `config.json` and all files besides the weights with those of the base model."""
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place)
        layout = contents.layout
        save_configuration(contents.network, wanted)
        complete = not layout.lost
        take_over_files(contents.checkpoint.folder, wanted, chat_template, complete=complete)
        index = layout.index()
        if index is not None:
            (wanted / INDEX).write_text(index, encoding="utf-8")
        names = {
            path.relative_to(wanted).as_posix() for path in wanted.rglob("*") if path.is_file()
        }
        key = first_difference(wanted / CONFIG, folder / CONFIG)
        return [
            Check("configuration", f"{key} of {CONFIG} differs from the base model", passed=False)
            if key
            else Check("configuration", "matches the base model except for the edit"),
            _compare_others(folder, wanted, names, recorded, layout.shards),
        ]


def check_tensors(folder: Path, contents: Contents) -> Check:
    """Compare every tensor with the base model or with its recorded edit, bit for bit."""
    layout = contents.layout
    edited = layout.edited(contents.changed)
    try:
        saved = Checkpoint(folder, dequantize=False)
        missing, unknown = missing_tensor(saved, layout), unknown_tensor(saved, layout)
        different = None if missing else different_tensor(saved, contents.expected, layout)
    except (ExportError, OSError, KeyError) as error:
        return Check("tensors", f"weights cannot be read: {one_line(error)}", passed=False)
    if missing:
        return Check("tensors", f"{missing} is missing", passed=False)
    if different:
        what = "the recorded edit" if different in edited else "the base model"
        return Check("tensors", f"{different} differs from {what}", passed=False)
    if unknown:
        return Check("tensors", f"{unknown} is not in the base model", passed=False)
    same = len(layout.tensors) - len(edited)
    return Check("tensors", f"{len(edited)} edited as recorded, {same} identical to the base model")


def check_adapter(
    folder: Path, ablation: Ablation, source: Path, record: ExportRecord, *, trust_remote_code: bool
) -> list[Check]:
    """Compare an adapter with the one computed from its base model.

    Args:
        folder: folder of the adapter.
        ablation: recorded edit.
        source: folder of the base model.
        record: record of the adapter.
        trust_remote_code: whether the base model's own code may be executed.
    """
    named = record.source
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place) / "adapter"
        save_adapter(
            ablation,
            source,
            wanted,
            {},
            base_model=named.model,
            revision=named.revision,
            trust_remote_code=trust_remote_code,
        )
        ignored = () if on_the_hub(named.model) else BASE_FIELDS  # a folder may have been moved
        key = first_difference(wanted / ADAPTER_CONFIG, folder / ADAPTER_CONFIG, ignored)
        what = f"{key} of {ADAPTER_CONFIG} differs from the recorded edit"
        foreign = _foreign(record.files, {ADAPTER_CONFIG, WEIGHTS})
        return [
            Check("configuration", what, passed=False)
            if key
            else Check("configuration", "matches the recorded edit"),
            _compare_adapters(folder / WEIGHTS, wanted / WEIGHTS),
            *([Check("other files", foreign, passed=False)] if foreign else []),
        ]


def check_quantized(
    folder: Path,
    ablation: Ablation,
    source: Path,
    recorded: Mapping[str, FileFacts],
    *,
    trust_remote_code: bool,
) -> list[Check]:
    """Compare a model in the quantized format of its base with one edited again, by file.

    The latter is written next to the folder, since temporary folders are often small.
    """
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as place:
        wanted = Path(place) / "quantized"
        save_repacked(ablation, source, wanted, {}, trust_remote_code=trust_remote_code)
        files = {name: facts["sha256"] for name, facts in manifest(wanted).items()}
        del files[RECORD]
        found = {name: sha256_of(folder / name) for name in files if (folder / name).is_file()}
    differing = min((name for name in files if found.get(name) != files[name]), default=None)
    if differing is not None:
        what = f"{differing} differs from the recorded edit"
        return [Check("edit", what, passed=False)]
    if foreign := _foreign(recorded, files):
        return [Check("edit", foreign, passed=False)]
    return [Check("edit", f"{len(files)} files are those of the base model with the recorded edit")]


def _foreign(recorded: Collection[str], known: Collection[str]) -> str | None:
    """Return the first recorded file that an export does not write, in words."""
    others = sorted({*recorded} - {*known})
    return f"{others[0]} is not part of the recorded edit" if others else None


def first_difference(wanted: Path, found: Path, ignored: Collection[str] = ()) -> str | None:
    """Return the dotted name of the first value that differs between two JSON files, if any.

    Args:
        wanted: expected file.
        found: file of the saved folder.
        ignored: names at the top level that are not compared.
    """
    if found.is_file() and sha256_of(wanted) == sha256_of(found):
        return None
    try:
        known: Any = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "the content"
    expected: Any = json.loads(wanted.read_text(encoding="utf-8"))
    if isinstance(known, dict) and isinstance(expected, dict):
        known, expected = (
            {k: v for k, v in each.items() if k not in ignored} for each in (known, expected)
        )
    return _different_key(expected, known)


def _different_key(wanted: Any, found: Any, prefix: str = "") -> str | None:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name in sorted({*wanted, *found}, key=str):
            if name not in wanted or name not in found:
                return one_line(f"{prefix}{name}")
            inner = _different_key(wanted[name], found[name], f"{prefix}{name}.")
            if inner is not None:
                return inner
        return None
    return None if (type(wanted), wanted) == (type(found), found) else prefix.removesuffix(".")


def _compare_others(
    folder: Path,
    wanted: Path,
    names: set[str],
    recorded: Mapping[str, FileFacts],
    shards: Mapping[str, object],
) -> Check:
    for name in sorted(names - {CONFIG}):
        if not (folder / name).is_file() or sha256_of(folder / name) != sha256_of(wanted / name):
            return Check("other files", f"{name} differs from the base model", passed=False)
    foreign = sorted(recorded.keys() - names - shards.keys())
    if foreign:
        return Check("other files", f"{foreign[0]} is not in the base model", passed=False)
    return Check("other files", f"{len(names) - 1} files are those of the base model")


def _compare_adapters(found: Path, wanted: Path) -> Check:
    computed = load_file(wanted)
    try:
        saved = load_file(found)
    except (OSError, SafetensorError) as error:
        return Check("tensors", f"weights cannot be read: {one_line(error)}", passed=False)
    for name, tensor in computed.items():
        if name not in saved:
            return Check("tensors", f"{name} is missing", passed=False)
        if saved[name].dtype != tensor.dtype or not saved[name].equal(tensor):
            return Check("tensors", f"{name} differs from the recorded edit", passed=False)
    unknown = min(saved.keys() - computed.keys(), default=None)
    if unknown is not None:
        return Check("tensors", f"{one_line(unknown)} is not part of the edit", passed=False)
    return Check("tensors", f"{len(computed)} tensors as recorded")

"""Files of a saved model besides its weights, taken over from the base model byte for byte.

Saving the tokenizer in memory would include its left padding, which only the phases here need, and
every library version writes other keys. `config.json` keeps its form as well; see
`restore_configuration`.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from heretic.ablation.disk_weights import tensor_files
from heretic.artifacts import read_json, write_text
from heretic.console import log
from heretic.errors import printable
from heretic.export.checkpoint import Checkpoint
from heretic.export.configuration import (
    is_quantized,
    restore_configuration,
    without_member,
)
from heretic.export.record_file import NOT_REPRODUCED
from heretic.model.headers import INDEX
from heretic.model.own_files import ACCOMPANYING, CONFIG, is_hidden, own_files
from heretic.model.size import listed_files
from heretic.model.template import LEGACY_TEMPLATE, PROCESSOR

# Written anew for the edited model.
REPLACED = (CONFIG, INDEX, *NOT_REPRODUCED)
INDICES = ("*.index.json",)
OF_QUANTIZATION = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
CHAT_TEMPLATE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
MOST_NAMED = 10


def take_over_files(
    source: Path, target: Path, chat_template: str | None, *, complete: bool = True
) -> None:
    """Restore the configuration, and copy the base model's files that the edit does not change.

    A user's `chat_template` replaces the base model's, as the model must be used with the template
    it was measured with. Links that point outside the folder are left out, as an upload would
    publish their targets.

    Args:
        source: folder of the base model.
        target: folder of the saved model, with the `config.json` of its network.
        chat_template: template given by the user.
        complete: whether the saved model has all tensors of the base model.

    Raises:
        ExportError: `config.json` of the base model is not a JSON object.
    """
    restore_configuration(source, target, complete=complete)
    for path in _copied(source, quantized=is_quantized(target)):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if chat_template is not None:
        (target / CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")
        _remove_other_templates(target)


def omissions(
    source: Path, checkpoint: Checkpoint, target: Path, lost: Sequence[str] = ()
) -> dict[str, dict[str, list[str]]]:
    """Return the record of what a saved model lacks, unlike its base model; empty if nothing.

    Args:
        source: folder of the base model.
        checkpoint: its weights.
        target: folder of the saved model.
        lost: names of tensors that cannot be saved.
    """
    found = {"files": files_left_out(source, checkpoint, target), "tensors": list(lost)}
    omitted = {kind: names for kind, names in found.items() if names}
    return {"omitted": omitted} if omitted else {}


def files_left_out(source: Path, checkpoint: Checkpoint, target: Path) -> list[str]:
    """Return the sorted names of the base model's files that an export does not take over.

    For a snapshot of a hub repository, these include files that were not downloaded.

    Args:
        source: folder of the base model.
        checkpoint: its weights.
        target: folder of the saved model.
    """
    copied = _copied(source, quantized=is_quantized(target))
    kept = {path.relative_to(source).as_posix() for path in copied}
    kept |= {path.name for path in tensor_files(checkpoint.folder).values()} | {*REPLACED}
    there = {path.relative_to(source) for path in source.rglob("*") if not path.is_dir()}
    names = {path.as_posix() for path in there} | listed_files(source)
    return sorted(printable(name) for name in names - kept if not is_hidden(Path(name)))


def warn_of_omissions(record: Mapping[str, Mapping[str, Sequence[str]]], source: Path) -> None:
    """Name what a saved model lacks, unlike its base model; see `omissions`."""
    omitted = record.get("omitted", {})
    for path in own_files(source, ACCOMPANYING)[1]:
        log.warning(
            "%s is excluded from the export: it is a link to something other than a file of %s",
            path.name,
            source,
        )
    if files := omitted.get("files"):
        log.warning("Not copied from %s to the saved model: %s", source, _named(files))
    if tensors := omitted.get("tensors"):
        log.warning(
            "Not in the saved model, since transformers does not load them and torch has no such "
            "data type: %s; the number of such layers in its config.json is 0",
            _named(tensors),
        )


def _copied(source: Path, *, quantized: bool) -> list[Path]:
    own, _ = own_files(source, ACCOMPANYING)
    excluded = INDICES if quantized else (*INDICES, *OF_QUANTIZATION)
    relative = {path: path.relative_to(source) for path in own}
    return [
        path
        for path, name in relative.items()
        if not is_hidden(name)
        and name.as_posix() not in REPLACED
        and not any(name.match(pattern) for pattern in excluded)
    ]


def _named(names: Sequence[str]) -> str:
    shown = printable(", ".join(names[:MOST_NAMED]))
    more = len(names) - MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _remove_other_templates(folder: Path) -> None:
    """Remove the templates to which some reader gives precedence over `chat_template.jinja`.

    These are the processor's in transformers, and the tokenizer's in older versions and llama.cpp.
    """
    (folder / LEGACY_TEMPLATE).unlink(missing_ok=True)
    for path in _with_template(folder):
        text = path.read_text(encoding="utf-8")
        write_text(path, without_member(text, "chat_template"))


def _with_template(folder: Path) -> Iterator[Path]:
    for path in (folder / PROCESSOR, folder / TOKENIZER_CONFIG):
        if path.is_file() and "chat_template" in read_json(path):
            yield path

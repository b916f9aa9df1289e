"""Inspection of a checkpoint's files before prompts are fetched and torch is imported."""

from collections.abc import Collection
from pathlib import Path

from heretic.errors import ModelLoadError
from heretic.model.architectures import check_architecture
from heretic.model.checkpoint import WEIGHTS, is_local, require_checkpoint, weight_files
from heretic.model.configuration import check_sizes, read_configuration
from heretic.model.headers import SUFFIX, index_files, read_headers
from heretic.model.json_files import read_object
from heretic.model.template import ADDITIONAL, PROCESSOR, check_template_files, processor_template

TOKENIZER_PARTS = ("tokenizer", "vocab", "tekken", "spiece", "sentencepiece")
TOKENIZER_SUFFIXES = (".model", ".tiktoken", ".spm", ".bpe")
# They configure text processing and contain no vocabulary.
SETTINGS_OF_TOKENIZERS = ("tokenizer_config.json",)
TOKENIZER_CONFIG, TEKKEN = "tokenizer_config.json", "tekken.json"


def inspect_checkpoint(model: str, config: Path, *, trust_remote_code: bool) -> None:
    """Reject a checkpoint whose files show that it cannot be loaded.

    Args:
        model: hub id or local folder; of a hub model, only the configuration is inspected.
        config: its `config.json`.
        trust_remote_code: as the setting.

    Raises:
        ModelLoadError: the architecture does not generate text, a file is damaged, the index names
            files elsewhere, or the configuration's sizes contradict the weights.
    """
    if is_local(model):
        inspect_folder(model, config.parent, trust_remote_code=trust_remote_code)
        return
    found = read_configuration(model, config)
    check_architecture(model, found, trust_remote_code=trust_remote_code)


def inspect_folder(model: str, folder: Path, *, trust_remote_code: bool) -> None:
    """Reject a folder whose files show that it cannot be loaded.

    Raises:
        ModelLoadError: as `inspect_checkpoint`.
    """
    config = read_configuration(model, folder / "config.json")
    check_architecture(model, config, trust_remote_code=trust_remote_code)
    names = index_files(folder)
    single = (folder / WEIGHTS).is_file()
    # transformers prefers the single file; the index must be valid nevertheless.
    files = [folder / name for name in names] if names and not single else weight_files(folder)
    check_sizes(model, config, read_headers(files))


def check_chat(model: str, folder: Path, chat_template: str | None) -> None:
    """Reject a local folder without a tokenizer or, unless one is given, a chat template.

    Args:
        model: name for messages.
        folder: folder of the checkpoint.
        chat_template: as the setting.

    Raises:
        ModelLoadError: the message names the missing part, or a damaged template.
    """
    names = {path.name for path in folder.iterdir()}
    if not has_tokenizer(names):
        raise ModelLoadError(
            f"{model} has no tokenizer (such as tokenizer.json); copy the tokenizer's files from "
            "its base model"
        )
    if (folder / PROCESSOR).is_file():
        read_object(folder / PROCESSOR)  # edited by the export if a template is given
    check_template_files(folder)
    if chat_template is None and not _has_template(folder, names):
        raise ModelLoadError(
            f"{model} has no chat template, so it is not an instruct model; use the instruct "
            "variant, or provide a template with chat_template=<file.jinja>"
        )


def check_listing(model: str, names: Collection[str]) -> None:
    """Reject a repository whose file list shows that it cannot be loaded.

    Raises:
        ModelLoadError: the repository has no safetensors files or no tokenizer.
    """
    top = {name for name in names if "/" not in name}
    require_checkpoint(model, top)
    if not has_tokenizer(top) and not any(name.endswith(".py") for name in top):
        raise ModelLoadError(f"{model} has no tokenizer (such as tokenizer.json); choose another")


def has_tokenizer(names: Collection[str]) -> bool:
    """Return whether any of the files contains a tokenizer's vocabulary."""
    return any(
        name not in SETTINGS_OF_TOKENIZERS
        and not name.endswith((SUFFIX, ".py"))
        and (name.startswith(TOKENIZER_PARTS) or name.endswith(TOKENIZER_SUFFIXES))
        for name in names
    )


def _has_template(folder: Path, names: Collection[str]) -> bool:
    if TEKKEN in names or any(name.endswith(".jinja") for name in names):
        return True
    path = folder / TOKENIZER_CONFIG
    if TOKENIZER_CONFIG in names and read_object(path).get("chat_template"):
        return True
    return (folder / ADDITIONAL).is_dir() or bool(processor_template(folder))

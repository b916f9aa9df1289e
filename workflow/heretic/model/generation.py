"""A checkpoint's generation recommendations, which measurements ignore except for the end tokens.

The file is copied to the saved model unchanged. A file that transformers could not read or save is
ignored with a warning when the model is loaded, rather than failing hours later when the edited
model is saved.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from heretic.console import log
from heretic.errors import ModelLoadError, one_line
from heretic.model.json_files import read_object
from heretic.model.third_party import quiet_transformers, reported_as

FILE = "generation_config.json"
TOKENS = ("eos_token_id", "bos_token_id", "pad_token_id")


def stored_generation(model: str, folder: Path) -> GenerationConfig | None:
    """Return the generation configuration of a checkpoint in a form that can be saved again.

    Args:
        model: name for messages.
        folder: folder of the checkpoint.

    Returns:
        None if the checkpoint has none, so that transformers derives one from `config.json`. If the
        file is unusable, a plain one with its valid end, start and padding tokens, or else those of
        `config.json`.
    """
    path = folder / FILE
    if not path.exists() and not path.is_symlink():
        return None
    found: dict[str, Any] = {}
    try:
        found = read_object(path)
        with reported_as(ModelLoadError, f"{FILE} is unusable"), quiet_transformers():
            _require_tokens(found)
            config = GenerationConfig.from_pretrained(folder)
            with tempfile.TemporaryDirectory() as elsewhere:
                # A loaded model keeps a copy, which transformers validates more strictly.
                GenerationConfig.from_dict(config.to_dict()).save_pretrained(elsewhere)
    except ModelLoadError as error:
        log.warning(
            "%s of %s is not used, but copied unchanged to the saved model: %s",
            FILE,
            model,
            one_line(error, 160),
        )
        return _plain(folder, found)
    return config


@contextmanager
def generating_by(network: Any, config: GenerationConfig) -> Iterator[None]:
    """Within the block, generate with the given configuration alone, without the checkpoint's."""
    recommended = network.generation_config
    network.generation_config = config
    try:
        yield
    finally:
        network.generation_config = recommended


def _require_tokens(found: dict[str, Any]) -> None:
    for name in TOKENS:
        value = found.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(each) is int and 0 <= each < 2**31 for each in ids):
            raise ValueError(f"{name} is {value!r:.40}, not a token id")
        if name != "eos_token_id" and isinstance(value, list):
            raise ValueError(f"{name} is a list")


def _plain(folder: Path, found: dict[str, Any]) -> GenerationConfig:
    known: dict[str, Any] = {}
    for source in (read_object(folder / "config.json"), found):
        known |= {name: source[name] for name in TOKENS if _is_token(name, source)}
    return GenerationConfig(**known)  # type: ignore[no-untyped-call]


def _is_token(name: str, source: dict[str, Any]) -> bool:
    try:
        _require_tokens({name: source.get(name)})
    except ValueError:
        return False
    return source.get(name) is not None

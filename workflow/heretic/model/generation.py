"""Generation recommendations of a checkpoint, which measurements ignore.

The file is copied to the saved model as it is. One that transformers would not read or save is
ignored with a warning when the model is loaded, not hours later when the edited one is saved.
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
    """Return the generation configuration of a checkpoint, as it can be saved again.

    Args:
        model: name for messages.
        folder: of the checkpoint.

    Returns:
        None if it has none, so that transformers makes one of `config.json`. A plain one, with
        those tokens of `config.json` that end an answer, if the file is unusable.
    """
    path = folder / FILE
    if not path.exists() and not path.is_symlink():
        return None
    try:
        found = read_object(path)
        with reported_as(ModelLoadError, f"{FILE} is unusable"), quiet_transformers():
            _require_tokens(found)
            config = GenerationConfig.from_pretrained(folder)
            with tempfile.TemporaryDirectory() as elsewhere:
                # A loaded model holds a copy, which transformers validates more strictly.
                GenerationConfig.from_dict(config.to_dict()).save_pretrained(elsewhere)
    except ModelLoadError as error:
        log.warning(
            "%s of %s is not used, but copied unchanged to the saved model: %s",
            FILE,
            model,
            one_line(error, 160),
        )
        return _plain(folder)
    return config


@contextmanager
def generating_by(network: Any, config: GenerationConfig) -> Iterator[None]:
    """Generate by a configuration alone, without the checkpoint's, while the block lasts."""
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


def _plain(folder: Path) -> GenerationConfig:
    config = read_object(folder / "config.json")
    known = {name: config[name] for name in TOKENS if name in config}
    try:
        _require_tokens(known)
    except ValueError:
        known = {}
    return GenerationConfig(**known)  # type: ignore[no-untyped-call]

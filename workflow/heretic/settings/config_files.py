"""Configuration files of a workflow folder, in increasing order of precedence."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.errors import SettingsError, one_line
from heretic.yaml_text import MOST_CHARACTERS, YamlTextError, read_yaml

SHIPPED, TOML = Path("config/config.yaml"), Path("config.toml")


@dataclass(frozen=True)
class ConfigFile:
    """The contents of a configuration file and its name for messages."""

    name: str
    values: Mapping[str, Any]


def configuration_files(folder: Path, further: Sequence[Path] = ()) -> list[ConfigFile]:
    """Read the files that configure a run: the shipped one, `config.toml`, then `further`.

    Args:
        folder: Working folder of `snakemake`.
        further: Arguments of `--configfile`, relative to the working folder.

    Raises:
        SettingsError: A file of `further` is missing or TOML, which Snakemake does not support, or
            a file does not match its suffix.
    """
    for path in further:
        if path.suffix == ".toml":
            raise SettingsError(f"{path} is TOML; use YAML or JSON, or rename the file to {TOML}")
    standing = [path for path in (SHIPPED, TOML) if (folder / path).is_file()]
    return [
        *(ConfigFile(str(path), read_config_file(folder / path)) for path in standing),
        *(ConfigFile(str(path), read_config_file(path)) for path in further),
    ]


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the keys of one file: TOML by its suffix, otherwise YAML, a superset of JSON.

    Raises:
        SettingsError: The file is missing, invalid, or not a mapping.
    """
    kind = "TOML" if path.suffix == ".toml" else "YAML"
    try:
        if path.exists() and not path.is_file():
            raise SettingsError(f"{path} is not a regular file; give a settings file")
        if path.stat().st_size > MOST_CHARACTERS:
            raise SettingsError(
                f"{path} has more than {MOST_CHARACTERS:,} bytes; give a settings file"
            )
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if kind == "TOML" else read_yaml(text)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}; check the path") from error
    except YamlTextError as error:
        raise SettingsError(f"{path} {error}; fix that line") from error
    # ValueError also covers an invalid date or number, and bytes that are not UTF-8.
    except (ValueError, RecursionError) as error:
        reason = one_line(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise SettingsError(
            f"{path} is not a valid {kind} file: {reason}; fix that line"
        ) from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path} contains a {type(values).__name__}; expected `key: value` lines"
        )
    return values

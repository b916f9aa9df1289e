"""Configuration files as they lie in a folder of the workflow, the weakest first."""

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
    """What one configuration file says, and the name by which its user knows it."""

    name: str
    values: Mapping[str, Any]


def configuration_files(folder: Path, further: Sequence[Path] = ()) -> list[ConfigFile]:
    """The files that decide a run in `folder`: the shipped one, `config.toml`, then `further`.

    Args:
        folder: where `snakemake` would be started.
        further: what `--configfile` names, relative to the working folder.

    Raises:
        SettingsError: a file of `further` is missing or TOML, which Snakemake does not take, or a
            file is not what its suffix says.
    """
    for path in further:
        if path.suffix == ".toml":
            raise SettingsError(f"{path} is TOML; give YAML or JSON, or name the file {TOML}")
    standing = [path for path in (SHIPPED, TOML) if (folder / path).is_file()]
    return [
        *(ConfigFile(str(path), read_config_file(folder / path)) for path in standing),
        *(ConfigFile(str(path), read_config_file(path)) for path in further),
    ]


def read_config_file(path: Path) -> dict[str, Any]:
    """The keys of one file; TOML by its suffix, else YAML, of which JSON is a part.

    Raises:
        SettingsError: the file is missing, damaged, or holds no keys.
    """
    kind = "TOML" if path.suffix == ".toml" else "YAML"
    try:
        if path.exists() and not path.is_file():
            raise SettingsError(f"{path} is not a regular file; name a file of settings")
        if path.stat().st_size > MOST_CHARACTERS:
            raise SettingsError(
                f"{path} has more than {MOST_CHARACTERS:,} bytes; name a file of settings"
            )
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if kind == "TOML" else read_yaml(text)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}; check the path") from error
    except YamlTextError as error:
        raise SettingsError(f"{path} {error}; mend that line") from error
    # ValueError: also a date or number that does not exist, and bytes that are not UTF-8.
    except (ValueError, RecursionError) as error:
        reason = one_line(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise SettingsError(f"{path} is not a {kind} file: {reason}; mend that line") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds a {type(values).__name__}; write `key: value` lines")
    return values

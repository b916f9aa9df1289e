"""One resolver: command line > environment > configuration file > default, with origins."""

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from heretic.errors import SettingsError
from heretic.settings.prompt_sources import PromptSource, built_in_source
from heretic.settings.schema import PROMPT_FIELDS, Settings

COMMAND_LINE, ENVIRONMENT, FILE, DEFAULT = (
    "command line",
    "environment",
    "configuration file",
    "default",
)
PREFIX = "HERETIC_"


@dataclass(frozen=True)
class Resolution:
    """The resolved settings and, for each key, the source that had the last word."""

    settings: Settings
    origins: dict[str, str]

    def runs(self) -> dict[str, Settings]:
        """Settings of each run by run name.

        Raises:
            SettingsError: two models would share a results folder.
        """
        try:
            return self.settings.runs()
        except ValueError as error:
            raise SettingsError(f"model = {self.settings.model!r}: {error}") from error


def resolve(
    file: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    cli: Mapping[str, Any] | None = None,
) -> Resolution:
    """Merge the three sources over the defaults and validate the result.

    Args:
        file: the merged configuration files; may already hold the command line's values.
        environ: the process environment; only `HERETIC_*` is read. `os.environ` when None.
        cli: the bare command line, keys as in `Settings`.

    Raises:
        SettingsError: an unknown key (names the nearest), a wrong type or a value out of range.
    """
    environ = os.environ if environ is None else environ
    cli = dict(cli or {})
    layers = (
        (FILE, {key: value for key, value in (file or {}).items() if key not in cli}),
        (ENVIRONMENT, _from_environment(environ)),
        (COMMAND_LINE, cli),
    )
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, DEFAULT)
    for origin, layer in layers:
        _check_keys(layer, origin)
        for key, value in layer.items():
            merged[key] = _merge(merged.get(key), value)
            origins[key] = origin
    for key in PROMPT_FIELDS & merged.keys():
        merged[key] = _complete(key, merged[key], merged.get("model"))
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from error
    return Resolution(settings, origins)


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of `config.toml`, which Snakemake itself does not read.

    Raises:
        SettingsError: the file is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}; mend that line") from error


def variables(environ: Mapping[str, str]) -> list[str]:
    """Names of the environment variables that hold settings, sorted."""
    return sorted(name for name in environ if name.upper().startswith(PREFIX))


class _EnvironmentSource(EnvSettingsSource):
    """The environment source of pydantic-settings over a given mapping."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    named = variables(environ)
    keys = {name[len(PREFIX) :].lower().split("__")[0]: name for name in named}
    for key in keys.keys() - Settings.model_fields.keys():
        raise SettingsError(_unknown(key, keys[key], "environment variable "))
    try:
        return dict(_EnvironmentSource({name: environ[name] for name in named})())
    except ValueError as error:
        raise SettingsError(f"environment variables {', '.join(named)}: {error}") from error


def _merge(lower: Any, upper: Any) -> Any:
    """Nested keys complete the source below, unless they name another dataset."""
    if isinstance(lower, Mapping) and isinstance(upper, Mapping) and "dataset" not in upper:
        return {**lower, **upper}
    return upper


def _complete(prompt_set: str, value: Any, model: Any) -> Any:
    """A source that names no dataset changes single keys of the built-in one."""
    if not isinstance(value, Mapping) or "dataset" in value:
        return value
    name = Settings.model_fields["model"].default if model is None else model
    first = name[0] if isinstance(name, list) and name else str(name)
    return {**built_in_source(prompt_set, first).model_dump(), **value}


def _check_keys(layer: Mapping[str, Any], origin: str) -> None:
    for key in layer:
        if key not in Settings.model_fields:
            raise SettingsError(_unknown(key, key, f"{origin}: "))
        if key in PROMPT_FIELDS and isinstance(layer[key], Mapping):
            for inner in layer[key]:
                if inner not in PromptSource.model_fields:
                    known = list(PromptSource.model_fields)
                    raise SettingsError(_unknown(inner, f"{key}.{inner}", f"{origin}: ", known))


def _unknown(key: str, shown: str, where: str, known: Sequence[str] = ()) -> str:
    near = difflib.get_close_matches(key, known or list(Settings.model_fields), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "see config/README.md for all settings"
    return f"{where}unknown setting {shown!r}; {hint}"


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for detail in error.errors():
        if detail["loc"] and detail["loc"][-1] in ("bool", "list[str]"):
            continue  # the other side of a union explains it better
        lines.append(_explain_one(detail, origins))
    return "; ".join(dict.fromkeys(lines))


def _explain_one(detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    key = str(detail["loc"][0])
    path = ".".join(str(part) for part in detail["loc"] if part not in ("PromptSource", "str"))
    value = detail["input"]
    description = (Settings.model_fields[key].description or "").split(";")[0].split(":")[0]
    return f"{path} = {value!r} ({origins[key]}): {message[0].lower()}{message[1:]}. {description}"

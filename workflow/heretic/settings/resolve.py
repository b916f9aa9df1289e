"""Resolution of settings: command line > environment > configuration file > default."""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from heretic.errors import SettingsError, one_line
from heretic.settings.config_files import ConfigFile
from heretic.settings.plausible import SHOWN, check_plausible, shown
from heretic.settings.prompt_sources import DEMO, PromptSource, built_in_source
from heretic.settings.schema import PROMPT_FIELDS, Settings
from heretic.settings.types import read_prompt_setting

COMMAND_LINE, FILE, DEFAULT = "command line", "configuration file", "default"
PREFIX = "HERETIC_"
MOST_FAULTS = 5
MOST_MESSAGE = 400
# Messages shown instead of a regular expression.
PATTERNS = {
    "run_name": "use letters, digits, . _ - and begin with a letter or digit",
    "upload_to": "expected a repository as owner/name",
    "max_shard_size": "expected a size such as 5GB",
    "max_memory": "expected sizes such as 60GiB",
}
UNION_SIDES = ("source", "sources", "switch", "str", "list[str]")


@dataclass(frozen=True)
class Resolution:
    """The resolved settings and, for each key, the source of its value."""

    settings: Settings
    origins: dict[str, str]

    def runs(self) -> dict[str, Settings]:
        """Return the settings of each run by run name.

        Raises:
            SettingsError: Two models would share a results folder.
        """
        try:
            return self.settings.runs()
        except ValueError as error:
            raise SettingsError(f"model = {self.settings.model!r}: {error}") from error


def resolve(
    file: Mapping[str, Any] | Sequence[ConfigFile] | None = None,
    environ: Mapping[str, str] | None = None,
    cli: Mapping[str, Any] | None = None,
) -> Resolution:
    """Merge the sources with the defaults and validate the result.

    Args:
        file: The merged configuration files, or each file in increasing order of precedence; may
            already contain the command line's values.
        environ: The process environment, of which only `HERETIC_*` is read; defaults to
            `os.environ`.
        cli: Values given on the command line, with keys as in `Settings`.

    Raises:
        SettingsError: A key is unknown (the message names the nearest), or a value has the wrong
            type or is out of range.
    """
    environ = os.environ if environ is None else environ
    cli = dict(cli or {})
    files = [ConfigFile(FILE, file)] if isinstance(file, Mapping) else list(file or ())
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, DEFAULT)
    layers = [(each.name, _without_repeated(each.values, cli)) for each in files]
    for origin, layer in [*layers, *_environment_layers(environ), (COMMAND_LINE, cli)]:
        _check_keys(layer, origin)
        for key, value in layer.items():
            merged[key] = _merge(key, merged.get(key), value)
            origins[key] = origin
    for key in PROMPT_FIELDS & merged.keys():
        merged[key] = _complete(key, merged[key], merged.get("model"))
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from error
    for key in merged:  # again, after conversion of strings to numbers
        check_plausible(key, getattr(settings, key), origins[key])
    return Resolution(settings, origins)


def config_argument(key: str, value: Any) -> str:
    """Return a setting as an argument of `snakemake --config` that preserves its value.

    Snakemake strips quotes from both ends, then parses the rest as a number or as YAML, a superset
    of JSON. A leading space protects the quotes, so that a quoted value stays a string.
    """
    return f"{key}= {json.dumps(value, ensure_ascii=False)} "


def variables(environ: Mapping[str, str]) -> list[str]:
    """Return the sorted names of the environment variables that hold settings."""
    return sorted(name for name in environ if name.upper().startswith(PREFIX))


def _without_repeated(file: Mapping[str, Any], cli: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the files' values that the command line overrides entirely."""
    return {k: v for k, v in file.items() if k not in cli or isinstance(cli[k], Mapping)}


def _environment_layers(environ: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Return each environment variable with its setting."""
    layers = []
    # Sorted: `HERETIC_BAD_PROMPTS` comes before the `HERETIC_BAD_PROMPTS__SPLIT` that completes it.
    for name in variables(environ):
        key, *inner = name[len(PREFIX) :].lower().split("__")
        if key not in Settings.model_fields or (inner and key not in PROMPT_FIELDS):
            raise SettingsError(_unknown(key, name, "environment variable: "))
        value: Any = environ[name]
        for part in reversed(inner):
            value = {part: value}
        layers.append((f"environment {name}", {key: value if inner else _structured(name, value)}))
    return layers


def _structured(name: str, value: str) -> Any:
    """Parse a value that is not a scalar (a list, or the keys of a prompt set) as JSON."""
    if not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f"environment variable {name} is not valid JSON: {one_line(error)}; fix it"
        ) from error


def _merge(key: str, lower: Any, upper: Any) -> Any:
    """Merge nested keys into the lower-precedence source, unless they name another dataset."""
    if key not in PROMPT_FIELDS:
        return upper
    lower, upper = read_prompt_setting(lower), read_prompt_setting(upper)
    if isinstance(upper, Mapping) and "dataset" not in upper:
        if isinstance(lower, list):
            raise SettingsError(
                f"{key} is a list of sources, so its individual keys cannot be set; set "
                f"{key}.dataset, or change the list"
            )
        if isinstance(lower, Mapping):
            return {**lower, **upper}
    return upper


def _complete(prompt_set: str, value: Any, model: Any) -> Any:
    """Fill in a source without a dataset from the built-in one."""
    if not isinstance(value, Mapping) or "dataset" in value:
        return value
    models = model if isinstance(model, list) else [model or Settings.model_fields["model"].default]
    if len({name == DEMO for name in models}) > 1:
        raise SettingsError(
            f"{prompt_set} does not name a dataset, and `{DEMO}` has a different built-in one than "
            f"the other models; set {prompt_set}.dataset, or run `{DEMO}` separately"
        )
    return {**built_in_source(prompt_set, str(models[0])).model_dump(), **value}


def _check_keys(layer: Mapping[str, Any], origin: str) -> None:
    for key, value in layer.items():
        if key not in Settings.model_fields:
            raise SettingsError(_unknown(str(key), str(key), f"{origin}: "))
        check_plausible(key, value, origin)
        sources = value if isinstance(value, list) else [value]
        for source in (s for s in sources if key in PROMPT_FIELDS and isinstance(s, Mapping)):
            for inner in source:
                if inner not in PromptSource.model_fields:
                    known = list(PromptSource.model_fields)
                    raise SettingsError(
                        _unknown(str(inner), f"{key}.{inner}", f"{origin}: ", known)
                    )


def nearest(key: str, known: Sequence[str]) -> str:
    """Return a hint for the unknown key `key`, given the `known` names."""
    near = difflib.get_close_matches(key[:SHOWN], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "see config/README.md for all settings"


def _unknown(key: str, name: str, where: str, known: Sequence[str] = ()) -> str:
    hint = nearest(key, known or list(Settings.model_fields))
    return f"{where}unknown setting {shown(name)}; {hint}"


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    details = error.errors()
    # For a union, report only the side that is nearest to the value; the others repeat it.
    plain = [d for d in details if d["loc"][-1:] not in (("bool",), ("list[str]",))]
    told = list(dict.fromkeys(_explain_one(detail, origins) for detail in plain or details))
    more = f"; and {len(told) - MOST_FAULTS} more" if len(told) > MOST_FAULTS else ""
    return "; ".join(told[:MOST_FAULTS]) + more


def _explain_one(detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    message = one_line(detail["msg"].removeprefix("Value error, "), MOST_MESSAGE)
    if not detail["loc"]:
        return message
    key = str(detail["loc"][0])
    if detail["type"] == "string_pattern_mismatch" and key in PATTERNS:
        message = PATTERNS[key]
    path = ".".join(str(part) for part in detail["loc"] if part not in UNION_SIDES)
    description = (Settings.model_fields[key].description or "").split(";")[0].split(":")[0]
    return (
        f"{one_line(path, SHOWN)} = {shown(detail['input'])} ({origins[key]}): "
        f"{message[0].lower()}{message[1:]}. {description}"
    )

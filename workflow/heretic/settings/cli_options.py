"""Command-line options for all settings: `n_trials` as `--n-trials`."""

import inspect
import json
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from heretic.errors import SettingsError, one_line
from heretic.settings.fields import SECTIONS
from heretic.settings.schema import Settings
from heretic.yaml_text import YamlTextError, read_yaml


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option per setting to a typer command.

    Args:
        command: Function with a parameter `given`, which receives the settings given by the user
            as `{key: value}`, in the form expected by `resolve`.
    """

    @wraps(command)
    def with_settings(**arguments: Any) -> None:
        texts = {name: arguments.pop(name) for name in Settings.model_fields}
        given = {name: read_value(name, text) for name, text in texts.items() if text is not None}
        command(given=given, **arguments)

    own = inspect.signature(command).parameters
    kept = [own[name] for name in own if name != "given"]
    signature = inspect.Signature([*_keywords(kept), *_options()])
    with_settings.__signature__ = signature  # type: ignore[attr-defined]
    return with_settings


def read_value(name: str, text: str) -> Any:
    """Parse a list or the keys of a prompt set as YAML or JSON; leave other text unchanged.

    Raises:
        SettingsError: The text starts like a list or a mapping but is not valid.
    """
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return read_yaml(text, only_texts=True)
    except YamlTextError as error:
        raise SettingsError(f"--{_kebab(name)} {one_line(error)}; fix it") from error


def _keywords(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]


def _options() -> list[inspect.Parameter]:
    options, section = [], ""
    for name, field in Settings.model_fields.items():
        section = SECTIONS.get(name, section)
        option = typer.Option(
            f"--{_kebab(name)}",
            help=f"{field.description} [default: {_default(field)}]",
            rich_help_panel=section,
            metavar="VALUE",
            show_default=False,
        )
        options.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, option],
            )
        )
    return options


def _default(field: FieldInfo) -> str:
    return json.dumps(to_jsonable_python(field.default)).strip('"') or '""'


def _kebab(name: str) -> str:
    return name.replace("_", "-")

"""Configuration of an untrusted adapter, checked before PEFT uses it.

PEFT matches patterns in the configuration against the names of all modules. A pattern may be an
invalid regular expression, or one that takes years to match, so each is first tried with a time
limit.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heretic.artifacts import GIVEN, read_json
from heretic.errors import ExportError, HereticError, one_line
from heretic.export.formats import ADAPTER_CONFIG
from heretic.model.limits import LimitError, limited_time

SECONDS_FOR_PATTERNS = 3.0
LARGEST_RANK = 65_536
Pattern = Annotated[str, Field(max_length=2000)]
Patterns = Pattern | Annotated[list[Pattern], Field(max_length=100_000)] | None
Rank = Annotated[int, Field(ge=1, le=LARGEST_RANK)]


class AdapterConfig(BaseModel):
    """Fields of `adapter_config.json` that determine which modules PEFT changes.

    PEFT itself validates the others.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    peft_type: Annotated[str, Field(max_length=100)]
    target_modules: Patterns = None
    exclude_modules: Patterns = None
    modules_to_save: Annotated[list[Pattern], Field(max_length=1000)] | None = None
    layers_pattern: Patterns = None
    rank_pattern: Annotated[dict[Pattern, Rank], Field(max_length=100_000)] = Field(
        default_factory=dict
    )
    alpha_pattern: Annotated[dict[Pattern, float], Field(max_length=100_000)] = Field(
        default_factory=dict
    )
    r: Rank | None = None

    def expressions(self) -> list[str]:
        """Return the patterns that PEFT matches against names, built as PEFT does."""
        whole = [p for p in (self.target_modules, self.exclude_modules) if isinstance(p, str)]
        layers = self.layers_pattern or []
        several = [layers] if isinstance(layers, str) else layers
        return [
            *whole,
            *(rf"(.*\.)?({key})$" for key in (*self.rank_pattern, *self.alpha_pattern)),
            *(rf".*\.{each}\.(\d+)\." for each in several),
        ]


def check_config(folder: Path, names: Iterable[str]) -> None:
    """Reject an adapter whose configuration is damaged, or whose patterns cannot be matched.

    Args:
        folder: folder of the adapter.
        names: names of all modules of the base model.

    Raises:
        ExportError: a field is invalid; the message names it.
    """
    path = folder / ADAPTER_CONFIG
    try:
        config = AdapterConfig.model_validate(read_json(path, GIVEN))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = one_line(".".join(map(str, first["loc"])), 100)
        raise ExportError(
            f"{path} is not an adapter configuration: {place}: {one_line(first['msg'])}; use the "
            "file that was saved with the adapter"
        ) from error
    except HereticError as error:
        raise ExportError(str(error)) from error
    known = list(names)
    try:
        with limited_time(SECONDS_FOR_PATTERNS):
            for expression in config.expressions():
                compiled = re.compile(expression)
                for name in known:
                    compiled.fullmatch(name)
                    compiled.match(name)
    except (re.error, RecursionError, OverflowError, LimitError) as error:
        raise ExportError(
            f"{path} has a pattern that cannot be matched against module names "
            f"({one_line(error)}); list the modules by name"
        ) from error

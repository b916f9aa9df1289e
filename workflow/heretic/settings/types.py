"""Declaration of settings and conversion of command-line text to typed values."""

import json
import re
from collections import Counter
from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from heretic.errors import one_line
from heretic.settings.prompt_sources import empty_to_none


def setting(
    default: Any,
    description: str,
    *rules: str,
    runtime: bool = False,
    rounding: bool = False,
    **bounds: Any,
) -> Any:
    """Return a field with its default, its description, the rules that read it and its bounds.

    Args:
        default: Default value.
        description: Description for the help text and the generated documents.
        rules: Rules that read the setting and rerun when it changes.
        runtime: Whether the setting only changes how or where something is computed; no rule
            reruns in that case.
        rounding: Whether results under another value of the setting may differ by rounding.
        bounds: Bounds, as taken by pydantic's `Field`.
    """
    extra: dict[str, Any] = {
        "rules": list(rules),
        "runtime": runtime or rounding,
        "rounding": rounding,
    }
    return Field(default=default, description=description, json_schema_extra=extra, **bounds)


def read_prompt_setting(value: object) -> object:
    """Convert a bare string to a switch or a dataset; inside a list, always to a dataset."""
    if isinstance(value, str):
        switches = {"true": True, "false": False}
        return switches.get(value.strip().lower(), {"dataset": value})
    if isinstance(value, list):
        return [{"dataset": item} if isinstance(item, str) else item for item in value]
    return value


def kind_of_prompt_setting(value: object) -> str:
    """Return the kind of a prompt set's value: one source, several, or a switch."""
    if isinstance(value, bool):
        return "switch"
    return "sources" if isinstance(value, list) else "source"


def read_limits(value: object) -> object:
    """Parse `0=60GiB,cpu=100GiB` into limits by device."""
    value = empty_to_none(value)
    if isinstance(value, str):
        pairs = (part.partition("=") for part in value.split(","))
        return {device.strip(): size.strip() for device, _, size in pairs}
    return value


Memory = Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?([KMGT]i?B)$")]
MemoryLimits = Annotated[dict[str, Memory] | None, BeforeValidator(read_limits)]

# Options of the demo model.
DemoFamily = Literal["llama", "qwen3", "qwen3_moe"]
PlantedName = Literal["dish_of_material", "tool_of_fabric"]
DEFAULT_FAMILY: Final[DemoFamily] = "llama"
DEFAULT_PLANTED: Final[PlantedName] = "dish_of_material"

WEIGHTINGS = ("equal", "explained_variance")
Method = Literal["mean_difference", "contrastive_pca", "pca", "probe"]


def read_weights_by_name(value: object) -> object:
    """Parse `mean_difference=1,probe=0.5` into weights by name."""
    value = empty_to_none(value)
    if isinstance(value, str):
        pairs = (part.partition("=") for part in value.split(","))
        return {name.strip(): weight.strip() for name, _, weight in pairs}
    return value


def read_numbers(value: object) -> object:
    """Parse `1,0.5` into a list; return `equal` and `explained_variance` unchanged."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value]
    if isinstance(value, str) and value not in WEIGHTINGS:
        try:
            return [float(part) for part in value.strip("[] ").split(",")]
        except ValueError:
            names = " or ".join(WEIGHTINGS)
            raise ValueError(f"expected {names}, or numbers such as 1,0.5") from None
    return value


def read_depths(value: object) -> object:
    """Parse `0.4,0.9` into a pair; report any invalid value with a single message."""
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    try:
        low, high = map(float, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise ValueError(
            "expected two fractions of depth from 0 to 1, the smaller first, such as 0.4,0.9"
        )
    return low, high


Depths = Annotated[tuple[float, float], BeforeValidator(read_depths)]


def read_warm_start(value: object) -> object:
    """Convert a string or a boolean to a switch; return a path unchanged."""
    switches = {"auto": "auto", "true": "auto", "false": False, "": False, "null": False}
    found = switches.get(str(value).strip().lower(), value)
    if found not in ("auto", False) and not re.fullmatch(r".+\.ya?ml", str(found)):
        raise ValueError("expected auto, false, or a .yaml file of warm-start trials")
    return found


WarmStart = Annotated[
    Literal["auto", False] | Annotated[str, Field(pattern=r"\.ya?ml$")],
    BeforeValidator(read_warm_start),
]

# Value of `template_date` that fixes the date of a run when one is first needed.
AUTO_DATE: Final = "auto"
AUTO_PREFIX: Final = "auto"  # detect `response_prefix` from the model's responses
DATE = r"[1-9]\d{3}-\d{2}-\d{2}"


def parse_date(value: object) -> date:
    """Parse a date such as `2025-01-31`.

    Raises:
        ValueError: `value` is not a date.
    """
    if isinstance(value, str) and re.fullmatch(DATE, value, re.ASCII):
        try:
            return date.fromisoformat(value)
        except ValueError:  # such as the 31st of February
            pass
    raise ValueError("expected a date in the form YYYY-MM-DD, such as 2025-01-31")


def read_date(value: object) -> object:
    """Return `auto` or a date as a string; unquoted dates in YAML and TOML arrive as dates."""
    value = empty_to_none(value)
    if value is None:
        return AUTO_DATE
    text = value.isoformat() if type(value) is date else str(value).strip()
    return text if text == AUTO_DATE else parse_date(text).isoformat()


TemplateDate = Annotated[
    Annotated[str, Field(pattern=f"^({AUTO_DATE}|{DATE})$")], BeforeValidator(read_date)
]

MAX_TRIAL_BATCH_SIZE = 8


def read_trial_batch_size(value: object) -> object:
    """Parse `4` into a number; report any invalid value with a single message."""
    text = str(value).strip().lower()
    if text == "auto":
        return text
    known = text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_TRIAL_BATCH_SIZE
    if not known or isinstance(value, bool):
        raise ValueError(f"expected auto or an integer from 1 to {MAX_TRIAL_BATCH_SIZE}")
    return int(text)


TrialBatchSize = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_TRIAL_BATCH_SIZE)],
    BeforeValidator(read_trial_batch_size),
]

OptionalNumber = Annotated[float | None, BeforeValidator(empty_to_none)]
RULE_NAMES = ("closest", "knee", "min_refusals_under_kl", "trial=<number>")
RULE = r"(closest|knee|min_refusals_under_kl|trial=(0|[1-9]\d{0,9}))"


def read_picks(value: object) -> object:
    """Parse `knee, closest` into a list; return a single rule as a string."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    rules = value if isinstance(value, list) else [value]
    wrong = [rule for rule in rules if not (isinstance(rule, str) and re.fullmatch(RULE, rule))]
    if wrong or not rules:
        *names, last = RULE_NAMES
        what = f"unknown selection rule {wrong[0]!r}" if wrong else "no selection rule"
        raise ValueError(f"{what}; choose {', '.join(names)} or {last}, or several of these")
    twice = next((rule for rule, count in Counter(rules).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"lists {twice} twice; list each rule once")
    return rules[0] if len(rules) == 1 else rules


# Strings accepted in a configuration file, for its schema.
Picks = Annotated[
    Annotated[str, Field(pattern=rf"^{RULE}( *, *{RULE})*$")]
    | Annotated[
        list[Annotated[str, Field(pattern=f"^{RULE}$")]],
        Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    ],
    BeforeValidator(read_picks),
]

NotNegative = Annotated[float, Field(ge=0)]
MethodWeights = Annotated[dict[Method, NotNegative] | None, BeforeValidator(read_weights_by_name)]
DirectionWeights = Annotated[
    Literal["equal", "explained_variance"] | Annotated[list[NotNegative], Field(min_length=1)],
    BeforeValidator(read_numbers),
]


def read_plain_values(value: object) -> object:
    """Convert strings that hold numbers or booleans; a command line passes only strings."""
    if isinstance(value, dict):
        return {key: read_plain_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [read_plain_values(inner) for inner in value]
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, int | float | None) else value
    return value


class ScorerInstance(BaseModel):
    """An additional metric: scorer, name and settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scorer: str = Field(
        min_length=1,
        description="a built-in scorer of docs/scores.md, or your own class as "
        "`path/to/file.py:Class`",
    )
    name: str | None = Field(
        default=None, description="name of the metric; the scorer's own if null"
    )
    settings: Annotated[dict[str, Any], BeforeValidator(read_plain_values)] = Field(
        default={}, description="arguments of the scorer's class"
    )


def read_scorers(value: object) -> object:
    """Parse `perplexity,words` or a JSON list into scorer instances."""
    value = empty_to_none(value)
    if value is None:
        return []
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                why = one_line(error)
                raise ValueError(f"is not a valid JSON list ({why}); see docs/scores.md") from None
        else:
            value = [part.strip() for part in value.split(",")]
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return [{"scorer": item} if isinstance(item, str) else item for item in value]
    return value


Scorers = Annotated[list[ScorerInstance], BeforeValidator(read_scorers)]

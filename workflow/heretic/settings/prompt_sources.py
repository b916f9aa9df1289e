"""Sources of prompt sets, including the built-in defaults."""

from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DEMO: Final = "demo"

DIRECTION_SETS: Final = ("good_prompts", "bad_prompts")
EVALUATION_SETS: Final = ("good_evaluation_prompts", "bad_evaluation_prompts")
# Sets whose residuals every run extracts: for computing and for evaluating the directions.
STATE_SETS: Final = DIRECTION_SETS + EVALUATION_SETS
HOLDOUT_SETS: Final = ("good_holdout_prompts", "bad_holdout_prompts")
OPTIONAL_SETS: Final = ("unhelpfulness_prompts", "sacred_prompts")
PROMPT_SETS: Final = DIRECTION_SETS + EVALUATION_SETS + HOLDOUT_SETS + OPTIONAL_SETS


def empty_to_none(value: object) -> object:
    """Convert an empty string, used by command lines and variables to unset a key, to None."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "null") else value


OptionalText = Annotated[str | None, BeforeValidator(empty_to_none)]


def _read_names(value: object) -> object:
    """Parse `a, b` into a list, since variables and command lines hold strings."""
    if isinstance(value, str):
        return [name for name in (part.strip() for part in value.split(",")) if name]
    return value


Names = Annotated[list[str], BeforeValidator(_read_names)]


# Written where a tab is hard to type, such as on a command line.
TAB_NAMES: Final = ("tab", "\\t")


def _read_separator(value: object) -> object:
    """Convert the name of a tab to a tab, and an empty string to None."""
    if not isinstance(value, str) or value == "\t":
        return value
    return "\t" if value.strip().lower() in TAB_NAMES else empty_to_none(value)


def _check_separator(value: str | None) -> str | None:
    if value is None or value == "\t":
        return value
    if len(value) != 1 or not "!" <= value <= "~" or value.isalnum() or value in '"\\':
        raise ValueError("a separator must be `tab` or one punctuation character, such as `;`")
    return value


def _check_encoding(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        "a".encode(value)
    except (LookupError, ValueError) as error:
        raise ValueError(
            "not an encoding known to Python; use a name such as utf-16, cp1252 or shift_jis"
        ) from error
    return value


Separator = Annotated[
    str | None, BeforeValidator(_read_separator), AfterValidator(_check_separator)
]
Encoding = Annotated[str | None, BeforeValidator(empty_to_none), AfterValidator(_check_encoding)]


class PromptSource(BaseModel):
    """A source of prompts: a hub dataset, a saved dataset folder, a file, or the demo's set."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    dataset: str = Field(
        min_length=1,
        description=(
            "hub dataset id, folder created by `save_to_disk`, "
            ".txt/.csv/.tsv/.jsonl/.json/.parquet file, or `demo`"
        ),
    )
    config: OptionalText = Field(default=None, description="configuration of a hub dataset")
    revision: OptionalText = Field(
        default=None, description="branch, tag or commit of a hub dataset; pin it to reproduce"
    )
    split: str = Field(default="train", description="split, with optional slice: `train[:400]`")
    separator: Separator = Field(
        default=None,
        description=(
            "separator of cells in a .csv or .tsv file, such as `;` or `tab`; by default the one "
            "declared in a first line `sep=;`, otherwise a comma (.csv) or a tab (.tsv)"
        ),
    )
    encoding: Encoding = Field(
        default=None,
        description="encoding of a text file, such as `utf-16` or `cp1252`; UTF-8 by default",
    )
    column: str = Field(
        default="text",
        description=(
            "column with the prompt: a text, or the turns of a chat (`messages`, also as JSON "
            "text), from which the last user turn and the system turn are used"
        ),
    )
    choices_column: OptionalText = Field(
        default=None,
        description="column with a list of choices, appended to the prompt as `A.`, `B.`, …",
    )
    answer_column: OptionalText = Field(
        default=None,
        description=(
            "column with the string or strings that a correct answer contains; with "
            "`choices_column`, alternatively the number of the correct choice, from 0"
        ),
    )
    category_column: OptionalText = Field(
        default=None,
        description="column with the prompt's category, used for the report's breakdown of rates",
    )
    subjects: Names = Field(
        default=[],
        description=(
            "use only rows whose column `subject` is one of these, filtered before the split is "
            "sliced"
        ),
    )
    distinct: bool = Field(
        default=False,
        description=(
            "drop rows that repeat a prompt of any split before slicing, so that slices never "
            "share a prompt"
        ),
    )
    prefix: str = Field(default="", description="text inserted before every prompt")
    suffix: str = Field(default="", description="text appended to every prompt")
    system_prompt: str | None = Field(
        default=None, description="system prompt used with every prompt"
    )
    max_characters: int = Field(
        default=0, ge=0, description="truncate longer texts at a space; 0 disables truncation"
    )
    streaming: bool = Field(default=False, description="read only the rows in the split's slice")
    shuffle_buffer: int = Field(
        default=0,
        ge=0,
        description=(
            "size of the buffer used to shuffle a stream with the run's seed before slicing; 0 "
            "keeps the order"
        ),
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.shuffle_buffer and not self.streaming:
            raise ValueError("shuffle_buffer requires a stream; set streaming: true as well")
        if self.distinct and self.streaming:
            raise ValueError("distinct is not available for a stream; unset distinct or streaming")
        return self

    @property
    def depends_on_seed(self) -> bool:
        """Whether the prompts depend on the seed."""
        return self.dataset == DEMO or self.shuffle_buffer > 0


def built_in_source(prompt_set: str, model: str) -> PromptSource:
    """Return the default source of `prompt_set`: the demo's, or a public set.

    The public sets are widely used harmful and harmless instructions. The slices do not overlap and
    each dataset is deduplicated first, so that directions, search and report never share a prompt.
    """
    if model == DEMO:
        return PromptSource(
            dataset=DEMO,
            split=prompt_set,
            column="prompt",
            answer_column="answers",
            category_column="category",
        )
    splits = {"": "train[:300]", "evaluation_": "train[300:400]", "holdout_": "test[:100]"}
    harmful, harmless = "mlabonne/harmful_behaviors", "mlabonne/harmless_alpaca"
    public = {
        f"{side}_{part}prompts": PromptSource(dataset=dataset, split=split, distinct=True)
        for side, dataset in (("good", harmless), ("bad", harmful))
        for part, split in splits.items()
    }
    public["unhelpfulness_prompts"] = PromptSource(
        dataset="allenai/c4",
        config="en",
        split="train[:200]",
        streaming=True,
        shuffle_buffer=1000,
        max_characters=1000,
    )
    # The five development questions of each of the 57 subjects: the benchmark's test split stays
    # unseen, and streaming downloads only this small file.
    public["sacred_prompts"] = PromptSource(
        dataset="cais/mmlu",
        config="all",
        split="dev[:285]",
        column="question",
        choices_column="choices",
        suffix="\nAnswer:",
        streaming=True,
    )
    return public[prompt_set]

"""Where a prompt set comes from, and the sets that are used when the user names none."""

from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DEMO: Final = "demo"

DIRECTION_SETS: Final = ("good_prompts", "bad_prompts")
EVALUATION_SETS: Final = ("good_evaluation_prompts", "bad_evaluation_prompts")
# Sets whose residuals every run reads: those that make the directions and those that judge them.
STATE_SETS: Final = DIRECTION_SETS + EVALUATION_SETS
HOLDOUT_SETS: Final = ("good_holdout_prompts", "bad_holdout_prompts")
OPTIONAL_SETS: Final = ("unhelpfulness_prompts", "sacred_prompts")
PROMPT_SETS: Final = DIRECTION_SETS + EVALUATION_SETS + HOLDOUT_SETS + OPTIONAL_SETS


def read_nothing(value: object) -> object:
    """An empty text, which a command line or a variable holds to unset a key, as null."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "null") else value


OptionalText = Annotated[str | None, BeforeValidator(read_nothing)]


def _read_names(value: object) -> object:
    """`a, b` as the list of both, since variables and command lines hold text."""
    if isinstance(value, str):
        return [name for name in (part.strip() for part in value.split(",")) if name]
    return value


Names = Annotated[list[str], BeforeValidator(_read_names)]


class PromptSource(BaseModel):
    """One source of prompts: a hub dataset, a saved dataset folder, a file, or the demo's set."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    dataset: str = Field(
        min_length=1,
        description=(
            "hub dataset id, folder made by `save_to_disk`, .txt/.csv/.tsv/.jsonl/.parquet file, "
            "or `demo`"
        ),
    )
    config: OptionalText = Field(default=None, description="configuration of a hub dataset")
    revision: OptionalText = Field(
        default=None, description="branch, tag or commit of a hub dataset; pin it to reproduce"
    )
    split: str = Field(default="train", description="split, slices allowed: `train[:400]`")
    column: str = Field(
        default="text",
        description=(
            "column that holds the prompt: a text, or the turns of a chat (`messages`), of which "
            "the last user turn and the system turn are taken"
        ),
    )
    choices_column: OptionalText = Field(
        default=None,
        description="column with a list of choices, which follow the prompt as `A.`, `B.`, …",
    )
    answer_column: OptionalText = Field(
        default=None,
        description=(
            "column with the string, or the strings, that a right answer contains; with "
            "`choices_column` also the number of the right choice, from 0"
        ),
    )
    category_column: OptionalText = Field(
        default=None,
        description="column that names the kind of prompt, by which the report breaks rates down",
    )
    subjects: Names = Field(
        default=[],
        description=(
            "take only rows whose column `subject` is one of these, before the split is sliced"
        ),
    )
    distinct: bool = Field(
        default=False,
        description=(
            "drop rows that repeat a prompt of any split before slicing, so that slices never "
            "share one"
        ),
    )
    prefix: str = Field(default="", description="text put before every prompt")
    suffix: str = Field(default="", description="text put after every prompt")
    system_prompt: str | None = Field(default=None, description="system prompt of every prompt")
    max_characters: int = Field(
        default=0, ge=0, description="cut longer texts at a space; 0 leaves them whole"
    )
    streaming: bool = Field(
        default=False, description="read only the rows that the split's slice names"
    )
    shuffle_buffer: int = Field(
        default=0,
        ge=0,
        description=(
            "shuffle a stream with the run's seed through a buffer of so many rows before it is "
            "sliced; 0 keeps its order"
        ),
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.shuffle_buffer and not self.streaming:
            raise ValueError("shuffle_buffer shuffles a stream; set streaming: true as well")
        if self.distinct and self.streaming:
            raise ValueError("a stream cannot know what repeats; drop distinct or streaming")
        return self

    @property
    def depends_on_seed(self) -> bool:
        """Whether another seed gives other prompts."""
        return self.dataset == DEMO or self.shuffle_buffer > 0


def built_in_source(prompt_set: str, model: str) -> PromptSource:
    """The source of `prompt_set` when the user names none: the demo's, or the public sets.

    Harmful and harmless instructions as the field uses them. The slices do not overlap and each
    dataset is freed of repetitions first, so that directions, search and report never share a
    prompt.
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
    # The five development questions of each of the 57 subjects: the test split of one's
    # benchmark stays unseen, and a stream fetches this small file alone.
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

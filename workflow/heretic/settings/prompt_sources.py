"""Where a prompt set comes from, and the sets that are used when the user names none."""

from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

DEMO: Final = "demo"

DIRECTION_SETS: Final = ("good_prompts", "bad_prompts")
EVALUATION_SETS: Final = ("good_evaluation_prompts", "bad_evaluation_prompts")
HOLDOUT_SETS: Final = ("good_holdout_prompts", "bad_holdout_prompts")
OPTIONAL_SETS: Final = ("unhelpfulness_prompts", "sacred_prompts")
PROMPT_SETS: Final = DIRECTION_SETS + EVALUATION_SETS + HOLDOUT_SETS + OPTIONAL_SETS


def _read_nothing(value: object) -> object:
    """An empty text, which a command line or a variable holds to unset a key, as null."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "null") else value


OptionalText = Annotated[str | None, BeforeValidator(_read_nothing)]


class PromptSource(BaseModel):
    """One prompt set: a hub dataset, a saved dataset folder, a file, or the demo's own set."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    dataset: str = Field(
        min_length=1,
        description=(
            "hub dataset id, folder made by `save_to_disk`, .txt/.csv/.jsonl/.parquet file, or "
            "`demo`"
        ),
    )
    config: OptionalText = Field(default=None, description="configuration of a hub dataset")
    split: str = Field(default="train", description="split, slices allowed: `train[:400]`")
    column: str = Field(default="text", description="column that holds the prompt")
    answer_column: OptionalText = Field(
        default=None,
        description="column with the string, or the strings, that a right answer contains",
    )
    prefix: str = Field(default="", description="text put before every prompt")
    suffix: str = Field(default="", description="text put after every prompt")
    system_prompt: str | None = Field(default=None, description="system prompt of every prompt")
    streaming: bool = Field(
        default=False, description="read only the rows that the split's slice names"
    )


def built_in_source(prompt_set: str, model: str) -> PromptSource:
    """The source of `prompt_set` when the user names none: the demo's, or the public sets.

    The slices do not overlap, so that directions, search and report never share a prompt.
    """
    if model == DEMO:
        return PromptSource(
            dataset=DEMO, split=prompt_set, column="prompt", answer_column="answers"
        )
    splits = {"": "train[:300]", "evaluation_": "train[300:400]", "holdout_": "test[:100]"}
    harmful, harmless = "mlabonne/harmful_behaviors", "mlabonne/harmless_alpaca"
    public = {
        f"{side}_{part}prompts": PromptSource(dataset=dataset, split=split)
        for side, dataset in (("good", harmless), ("bad", harmful))
        for part, split in splits.items()
    }
    public["unhelpfulness_prompts"] = PromptSource(
        dataset="allenai/c4", config="en", split="train[:200]", streaming=True
    )
    public["sacred_prompts"] = PromptSource(
        dataset="cais/mmlu", config="all", split="validation[:200]", column="question"
    )
    return public[prompt_set]

"""The fields of the settings model about benchmarks of ability, scored by lm-eval."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from heretic.settings.fields import SettingsFields
from heretic.settings.prompt_sources import Names, OptionalText, read_nothing
from heretic.settings.values import setting

BENCHMARK_RULES = ("benchmark_original", "benchmark")


class BenchmarkFields(SettingsFields):
    """Names, types, defaults and bounds of all settings, those of benchmarks last."""

    benchmarks: Names = setting(
        [],
        "Benchmarks that the original and the edited model take, by their names in lm-eval, such "
        "as `mmlu,gsm8k`; empty takes none. `mmlu_subset` is `mmlu` with 25 questions a subject. "
        "Needs the extra `benchmarks`.",
        *BENCHMARK_RULES,
    )
    benchmark_limit: int = setting(
        0,
        "Documents of each task that are scored, the first ones, and of each subject of a "
        "benchmark of several; 0 scores all.",
        *BENCHMARK_RULES,
        ge=0,
    )
    benchmark_shots: Annotated[
        Annotated[int, Field(ge=0)] | None, BeforeValidator(read_nothing)
    ] = setting(
        None,
        "Solved examples that come before each document; empty takes what each task is defined "
        "with. Published numbers of `mmlu` mostly have 5, its definition has none.",
        *BENCHMARK_RULES,
    )
    benchmark_chat: bool = setting(
        True,
        "Put documents through the chat template, as people talk to the model; false gives it the "
        "bare text.",
        *BENCHMARK_RULES,
    )
    benchmark_tasks: OptionalText = setting(
        None,
        "Folder with lm-eval task files (YAML) of one's own, whose names `benchmarks` then knows.",
        *BENCHMARK_RULES,
    )

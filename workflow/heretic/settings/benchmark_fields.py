"""Settings of the capability benchmarks, which lm-eval scores."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from heretic.settings.fields import SettingsFields
from heretic.settings.prompt_sources import Names, OptionalText, empty_to_none
from heretic.settings.types import setting

BENCHMARK_RULES = ("benchmark_original", "benchmark")


class BenchmarkFields(SettingsFields):
    """Names, types, defaults and bounds of all settings, with those of the benchmarks last."""

    benchmarks: Names = setting(
        [],
        "lm-eval benchmarks to run on the original and the edited model, such as "
        "`mmlu,gsm8k`; empty runs none. `mmlu_subset` is `mmlu` with 25 questions per "
        "subject. Needs the extra `benchmarks`.",
        *BENCHMARK_RULES,
    )
    benchmark_limit: int = setting(
        0,
        "Number of documents to score per task, starting from the first, and per subject of "
        "a benchmark with several; 0 scores all.",
        *BENCHMARK_RULES,
        ge=0,
    )
    benchmark_num_fewshot: Annotated[
        Annotated[int, Field(ge=0)] | None, BeforeValidator(empty_to_none)
    ] = setting(
        None,
        "Few-shot examples per document; empty uses each task's default. Published `mmlu` "
        "scores are mostly 5-shot; lm-eval's default is 0-shot.",
        *BENCHMARK_RULES,
    )
    benchmark_apply_chat_template: bool = setting(
        True,
        "Apply the chat template; false passes the raw text.",
        *BENCHMARK_RULES,
    )
    benchmark_tasks: OptionalText = setting(
        None,
        "Folder with your own lm-eval task files (YAML), which makes their names available "
        "to `benchmarks`.",
        *BENCHMARK_RULES,
    )

"""One resolver over four sources: who wins, what is refused, and what the refusal says."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.cli import parse_config

from heretic.errors import SettingsError
from heretic.settings.resolve import (
    COMMAND_LINE,
    DEFAULT,
    FILE,
    config_argument,
    resolve,
    variables,
)
from heretic.settings.schema import Settings

Source = dict[str, Any]


def refusal(
    file: Source | None = None, environ: dict[str, str] | None = None, cli: Source | None = None
) -> str:
    """The message with which the sources are refused; always one line."""
    with pytest.raises(SettingsError) as caught:
        resolve(file or {}, environ or {}, cli or {})
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


@settings(max_examples=40, deadline=None)
@given(st.none() | st.integers(1, 9), st.none() | st.integers(1, 9), st.none() | st.integers(1, 9))
def test_the_highest_source_that_speaks_wins(
    file: int | None, environ: int | None, cli: int | None
) -> None:
    found = resolve(
        {} if file is None else {"n_trials": file},
        {} if environ is None else {"HERETIC_N_TRIALS": str(environ)},
        {} if cli is None else {"n_trials": str(cli)},
    )
    said = [
        (COMMAND_LINE, cli),
        ("environment HERETIC_N_TRIALS", environ),
        (FILE, file),
        (DEFAULT, 60),
    ]
    expected = next((origin, value) for origin, value in said if value is not None)
    assert (found.origins["n_trials"], found.settings.n_trials) == expected
    assert found.origins["seed"] == DEFAULT


def test_values_that_snakemake_merged_into_the_files_count_as_command_line() -> None:
    found = resolve({"n_trials": 7, "seed": 1}, {"HERETIC_N_TRIALS": "5"}, {"n_trials": 7})
    assert found.settings.n_trials == 7
    assert found.origins["n_trials"] == COMMAND_LINE
    assert found.origins["seed"] == FILE


def test_every_source_gives_the_same_settings_for_the_same_value() -> None:
    by_file = resolve({"max_kl": 0.5, "cache_weights": True, "bad_prompts": "a.txt"}, {}, {})
    by_environment = resolve(
        {},
        {
            "HERETIC_MAX_KL": "0.5",
            "HERETIC_CACHE_WEIGHTS": "True",
            "HERETIC_BAD_PROMPTS__DATASET": "a.txt",
        },
    )
    by_command = resolve(
        {}, {}, {"max_kl": "0.5", "cache_weights": "true", "bad_prompts": {"dataset": "a.txt"}}
    )
    dumps = [r.settings.model_dump() for r in (by_file, by_environment, by_command)]
    assert dumps[0] == dumps[1] == dumps[2]


def test_nested_keys_complete_the_source_below() -> None:
    file = {"bad_prompts": {"dataset": "a.csv", "split": "train", "column": "request"}}
    found = resolve(
        file, {"HERETIC_BAD_PROMPTS__SPLIT": "train[:5]"}, {"bad_prompts": {"prefix": "Say: "}}
    )
    source = found.settings.prompt_sources()["bad_prompts"][0]
    assert (source.dataset, source.split, source.column, source.prefix) == (
        "a.csv",
        "train[:5]",
        "request",
        "Say: ",
    )
    assert found.origins["bad_prompts"] == COMMAND_LINE


def test_nested_keys_complete_a_bare_path() -> None:
    found = resolve({"bad_prompts": "a.txt"}, {"HERETIC_BAD_PROMPTS__SPLIT": "train[:5]"})
    source = found.settings.prompt_sources()["bad_prompts"][0]
    assert (source.dataset, source.split) == ("a.txt", "train[:5]")


def test_nested_keys_on_the_command_line_keep_the_dataset_of_the_file() -> None:
    # Snakemake has already merged the command line into the files.
    merged = {"bad_prompts": {"dataset": "a.csv", "split": "train[:5]"}}
    found = resolve(merged, {}, {"bad_prompts": {"split": "train[:5]"}})
    source = found.settings.prompt_sources()["bad_prompts"][0]
    assert (source.dataset, source.split) == ("a.csv", "train[:5]")


def test_another_dataset_inherits_nothing_from_the_one_below() -> None:
    file = {"bad_prompts": {"dataset": "a.csv", "column": "request", "prefix": "Say: "}}
    found = resolve(file, {"HERETIC_BAD_PROMPTS": "b.txt"}).settings
    source = found.prompt_sources()["bad_prompts"][0]
    assert (source.dataset, source.column, source.prefix) == ("b.txt", "text", "")


def test_whole_set_and_single_key_may_both_be_variables() -> None:
    environ = {"HERETIC_BAD_PROMPTS__SPLIT": "train[:5]", "HERETIC_BAD_PROMPTS": "a.txt"}
    source = resolve({}, environ).settings.prompt_sources()["bad_prompts"][0]
    assert (source.dataset, source.split) == ("a.txt", "train[:5]")


def test_a_single_key_changes_the_built_in_set() -> None:
    environ = {"HERETIC_BAD_PROMPTS__SPLIT": "bad_prompts[:3]"}
    demo = resolve({}, environ).settings
    assert demo.prompt_sources()["bad_prompts"][0].dataset == "demo"
    assert demo.prompt_sources()["bad_prompts"][0].split == "bad_prompts[:3]"
    assert demo.prompt_sources()["bad_prompts"][0].answer_column == "answers"
    public = resolve({"model": "owner/name"}, environ).settings
    built_in = resolve({"model": "owner/name"}, {}).settings.prompt_sources()["bad_prompts"][0]
    assert public.prompt_sources()["bad_prompts"][0].dataset == built_in.dataset != "demo"


def test_a_single_key_switches_an_optional_set_on() -> None:
    settings = resolve(
        {"model": "owner/name"}, {"HERETIC_SACRED_PROMPTS__SPLIT": "test[:9]"}
    ).settings
    source = settings.prompt_sources()["sacred_prompts"][0]
    assert (source.dataset, source.column, source.split) == ("cais/mmlu", "question", "test[:9]")


def test_several_sources_come_from_every_source() -> None:
    mixed: list[Any] = ["a.txt", {"dataset": "b.csv", "column": "q"}]
    as_json = '["a.txt", {"dataset": "b.csv", "column": "q"}]'
    found = [
        resolve({"bad_prompts": mixed}, {}),
        resolve({}, {"HERETIC_BAD_PROMPTS": as_json}),
        resolve({}, {}, {"bad_prompts": mixed}),
    ]
    for resolution in found:
        sources = resolution.settings.prompt_sources()["bad_prompts"]
        assert [(s.dataset, s.column) for s in sources] == [("a.txt", "text"), ("b.csv", "q")]


def test_another_dataset_replaces_a_list_and_single_keys_do_not_fit_it() -> None:
    file: Source = {"bad_prompts": ["a.txt", "b.txt"]}
    found = resolve(file, {"HERETIC_BAD_PROMPTS": "c.txt"}).settings.prompt_sources()
    assert [source.dataset for source in found["bad_prompts"]] == ["c.txt"]
    message = refusal(file, {"HERETIC_BAD_PROMPTS__SPLIT": "train[:5]"})
    assert "bad_prompts is a list of sources" in message


def test_an_unknown_key_in_a_list_is_refused() -> None:
    assert "did you mean 'column'" in refusal({"bad_prompts": ["a.txt", {"colum": "q"}]})


def test_names_of_subjects_are_text_or_a_list() -> None:
    text = resolve({}, {"HERETIC_SACRED_PROMPTS__SUBJECTS": "law, logic"}).settings
    listed = resolve({"sacred_prompts": {"subjects": ["law", "logic"]}}, {}).settings
    for found in (text, listed):
        assert found.prompt_sources()["sacred_prompts"][0].subjects == ["law", "logic"]


def test_names_of_benchmarks_are_text_or_a_list() -> None:
    text = resolve({}, {}, {"benchmarks": "mmlu, gsm8k", "benchmark_num_fewshot": "5"}).settings
    listed = resolve({"benchmarks": ["mmlu", "gsm8k"], "benchmark_num_fewshot": 5}, {}).settings
    assert text.benchmarks == listed.benchmarks == ["mmlu", "gsm8k"]
    assert text.benchmark_num_fewshot == listed.benchmark_num_fewshot == 5
    assert resolve({"benchmarks": ""}, {"HERETIC_BENCHMARK_NUM_FEWSHOT": ""}).settings == Settings()


def test_a_single_key_cannot_change_two_built_in_sets_at_once() -> None:
    message = refusal({"model": ["demo", "owner/name"], "bad_prompts": {"split": "train[:3]"}})
    assert "bad_prompts.dataset" in message


def test_lists_and_prompt_sets_are_json_in_variables() -> None:
    found = resolve(
        {}, {"HERETIC_MODEL": '["a/b", "c/d"]', "HERETIC_BAD_PROMPTS": '{"dataset": "x.txt"}'}
    )
    assert found.settings.model == ["a/b", "c/d"]
    assert "HERETIC_MODEL is not valid JSON" in refusal(environ={"HERETIC_MODEL": '["a/b",'})


def test_memory_limits_are_text_or_a_table() -> None:
    wanted = {"0": "60GiB", "cpu": "100 GB"}
    both = {"device_map": "auto", "max_memory": {0: "60GiB", "cpu": "100 GB"}}
    assert resolve(both, {}).settings.max_memory == wanted
    environ = {"HERETIC_DEVICE_MAP": "auto", "HERETIC_MAX_MEMORY": "0=60GiB, cpu=100 GB"}
    assert resolve({}, environ).settings.max_memory == wanted
    assert resolve(both, {"HERETIC_MAX_MEMORY": ""}).settings.max_memory is None
    assert "set device_map=auto" in refusal({"max_memory": "0=60GiB"})


def test_trials_share_a_batch_only_on_the_output_side() -> None:
    assert resolve({"edit_mode": "weights", "trial_batch_size": 1}, {})
    assert resolve({"edit_mode": "hooks", "trial_batch_size": "4"}, {})
    both = refusal({"edit_mode": "weights", "trial_batch_size": 2})
    assert "trial_batch_size=2 is not supported with edit_mode=weights; use edit_mode=auto" in both


def test_an_empty_prefix_switches_the_search_for_one_off() -> None:
    assert resolve({}, {}).settings.response_prefix == "auto"
    assert resolve({}, {"HERETIC_RESPONSE_PREFIX": ""}).settings.response_prefix == ""


@pytest.mark.parametrize("name", ["run_name", "model_revision", "upload_to"])
@pytest.mark.parametrize("nothing", ["", "null"])
def test_an_empty_variable_unsets(name: str, nothing: str) -> None:
    file = {"run_name": "one", "model_revision": "main", "upload_to": "owner/name"}
    found = resolve(file, {f"HERETIC_{name.upper()}": nothing})
    assert getattr(found.settings, name) is None
    assert found.origins[name] == f"environment HERETIC_{name.upper()}"


def test_names_made_of_digits_are_text() -> None:
    settings = resolve({}, {}, {"run_name": 2024, "model_revision": 1234567}).settings
    assert (settings.run_name, settings.model_revision) == ("2024", "1234567")


def test_only_its_own_variables_are_read() -> None:
    environ = {"N_TRIALS": "1", "heretic_seed": "4", "HERETIC_N_TRIALS": "9", "PATH": "/bin"}
    assert variables(environ) == ["HERETIC_N_TRIALS", "heretic_seed"]
    assert resolve({}, environ).settings.n_trials == 9
    assert resolve({}, environ).settings.seed == 4


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ({"file": {"n_trails": 5}}, ("configuration file", "n_trails", "'n_trials'")),
        ({"environ": {"HERETIC_N_TRAILS": "5"}}, ("HERETIC_N_TRAILS", "'n_trials'")),
        ({"cli": {"n_trails": 5}}, ("command line", "n_trails", "'n_trials'")),
        ({"file": {"bad_prompts": {"splt": "x"}}}, ("bad_prompts.splt", "'split'")),
        ({"environ": {"HERETIC_BAD_PROMPTS__COLUM": "x"}}, ("bad_prompts.colum", "'column'")),
        ({"cli": {"bad_prompts": {"dateset": "x"}}}, ("command line", "'dataset'")),
        ({"environ": {"HERETIC_SEED__X": "3"}}, ("HERETIC_SEED__X",)),
        ({"environ": {"HERETIC_": "3"}}, ("HERETIC_", "config/README.md")),
        ({"file": {1: 2}}, ("'1'", "config/README.md")),
        ({"file": {"bad_prompts": {1: 2}}}, ("bad_prompts.1",)),
        ({"file": {"zzz": 2}}, ("zzz", "config/README.md")),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(
    sources: dict[str, Any], wanted: tuple[str, ...]
) -> None:
    message = refusal(**sources)
    assert all(part in message for part in wanted), message


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("n_trials", 0, "greater than or equal to 1"),
        ("n_trials", "many", "valid integer"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**31, "less than"),
        ("max_kl", 0, "greater than 0"),
        ("max_weight", float("inf"), "finite"),
        ("max_weight", float("nan"), "finite"),
        ("min_remaining_norm", 1.0, "less than 1"),
        ("bootstrap_samples", 99, "greater than or equal to 100"),
        ("dtype", "int8", "'bfloat16'"),
        ("device_map", "everywhere", "'balanced'"),
        ("max_memory", "0=much", "sizes such as 60GiB"),
        ("max_memory", "60GiB", "sizes such as 60GiB"),
        ("cache_weights", "perhaps", "'auto'"),
        (
            "select",
            "best",
            "unknown selection rule 'best'; choose closest, knee, min_refusals_under_kl or trial",
        ),
        ("trial_batch_size", "9", "expected auto or an integer from 1 to 8"),
        ("trial_batch_size", "0", "expected auto or an integer from 1 to 8"),
        ("trial_batch_size", "x", "expected auto or an integer from 1 to 8"),
        ("trial_batch_size", True, "expected auto or an integer from 1 to 8"),
        ("activation_cache_gb", "-1", "greater than or equal to 0"),
        ("select", "trial=", "unknown selection rule 'trial='"),
        ("select", "knee,trial=x", "unknown selection rule 'trial=x'"),
        ("select", ["knee", 3], "unknown selection rule 3"),
        ("select", "knee, closest, knee", "lists knee twice; list each rule once"),
        ("select", " ", "unknown selection rule ''"),
        ("select", [], "no selection rule"),
        ("select", 3, "unknown selection rule 3"),
        ("n_finalists", 0, "greater than or equal to 1"),
        ("max_shard_size", "5", "GB"),
        ("upload_to", "no-owner", "owner/name"),
        ("run_name", "../elsewhere", "letters, digits, . _ -"),
        ("run_name", ".hidden", "letters, digits, . _ -"),
        ("trust_remote_code", "perhaps", "boolean"),
        ("model", [], "hub id"),
        ("model", " ", "hub id"),
        ("model", {"a": 1}, "string"),
        ("model", ["a/b", "a/b"], "twice"),
        ("good_prompts", False, "cannot be disabled"),
        ("good_prompts", {"dataset": ""}, "at least 1 character"),
        ("good_prompts", None, "dictionary"),
        ("good_prompts", [], "at least 1 item"),
        ("good_prompts", ["a.txt", 5], "good_prompts.1 = 5"),
        ("good_prompts", ["a.txt", {"column": "q"}], "good_prompts.1.dataset"),
        ("good_prompts", {"dataset": "a/b", "shuffle_buffer": 9}, "streaming: true as well"),
        (
            "good_prompts",
            {"dataset": "a/b", "streaming": True, "distinct": True},
            "unset distinct or streaming",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_origin(
    key: str, value: object, wanted: str
) -> None:
    message = refusal(cli={key: value})
    assert message.startswith(key)
    assert wanted in message
    assert "(command line)" in message or "disabled" in message


@pytest.mark.parametrize(
    ("value", "wanted"), [("4", 4), (4, 4), (" 8 ", 8), ("auto", "auto"), ("Auto", "auto")]
)
def test_trials_in_flight_are_a_number_or_left_open(value: object, wanted: object) -> None:
    assert resolve({}, {}, {"trial_batch_size": value}).settings.trial_batch_size == wanted
    environ = {"HERETIC_TRIAL_BATCH_SIZE": str(value)}
    assert resolve({}, environ).settings.trial_batch_size == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("auto", "auto"), ("", "auto"), (None, "auto"), (" 2025-01-31 ", "2025-01-31"),
        (date(2025, 1, 31), "2025-01-31"),  # as YAML and TOML read it
    ],
)  # fmt: skip
def test_a_date_is_a_day_or_left_open(value: object, wanted: str) -> None:
    assert resolve({"template_date": value}, {}).settings.template_date == wanted


@pytest.mark.parametrize(
    "value",
    ["today", "2025-02-29", "2025-1-31", "20250131", "0025-01-31", 2025,
     "\uff12\uff10\uff12\uff15-01-31", datetime(2025, 1, 31, 10, tzinfo=UTC)],
)  # fmt: skip
def test_what_is_no_date_is_refused(value: object) -> None:
    assert "expected a date in the form YYYY-MM-DD" in refusal({"template_date": value})


def test_several_faults_are_told_at_once() -> None:
    message = refusal({"n_trials": 0}, {"HERETIC_DTYPE": "int8"})
    assert "n_trials = 0 (configuration file)" in message
    assert "dtype = 'int8' (environment HERETIC_DTYPE)" in message


def test_more_random_trials_than_trials_are_refused_only_when_asked_for() -> None:
    message = refusal({"n_trials": 5, "n_startup_trials": 9})
    assert "n_startup_trials (9) exceeds n_trials (5)" in message
    assert resolve({"n_trials": 5}, {}).settings.n_startup_trials > 5


def test_a_run_name_is_for_one_model() -> None:
    assert "run_name" in refusal({"model": ["a/b", "c/d"], "run_name": "both"})


def test_an_upload_is_of_one_model() -> None:
    assert "one repository" in refusal({"model": ["a/b", "c/d"], "upload_to": "me/x"})


# YAML has no place for control characters, noncharacters and a byte order mark.
typed = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn", "Co"), exclude_characters="\ufeff")
    | st.sampled_from("\n\t"),
    min_size=1,
    max_size=12,
)


@given(st.recursive(typed, lambda inner: st.lists(inner, min_size=1, max_size=2), max_leaves=3))
def test_snakemake_reads_an_argument_as_it_was_meant(value: object) -> None:
    assert parse_config([config_argument("model", value)]) == {"model": value}


@pytest.mark.parametrize("value", ["007", "2.10", "2025_07_01", "true", "null", "a\n\nb's", ""])
def test_a_text_that_looks_like_something_else_stays_a_text(value: str) -> None:
    assert parse_config([config_argument("run_name", value)]) == {"run_name": value}


def test_an_empty_prefix_switches_it_off_from_any_source() -> None:
    for nothing in (None, ""):
        assert resolve({"response_prefix": nothing}, {}).settings.response_prefix == ""


def test_models_that_would_share_a_folder_are_refused() -> None:
    found = resolve({"model": ["/one/llama", "/two/llama"]}, {})
    with pytest.raises(SettingsError, match=r"share a results folder; run them one by one"):
        found.runs()


def test_each_model_is_a_run() -> None:
    runs = resolve({"model": ["demo", "owner/name"], "seed": 3}, {}).runs()
    assert list(runs) == ["demo", "owner--name"]
    assert [run.model for run in runs.values()] == ["demo", "owner/name"]
    assert {run.seed for run in runs.values()} == {3}
    assert runs["demo"].prompt_sources()["bad_prompts"][0].dataset == "demo"
    assert runs["owner--name"].prompt_sources()["bad_prompts"][0].dataset != "demo"
    assert list(resolve({"model": "owner/name", "run_name": "mine"}, {}).runs()) == ["mine"]


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERETIC_N_TRIALS", "17")
    assert resolve().settings.n_trials == 17
    # Settings made in Python say what they say.
    assert Settings().n_trials == 60

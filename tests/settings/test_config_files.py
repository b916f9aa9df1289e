"""Configuration files: which count, which wins, and what a damaged one says."""

from pathlib import Path

import pytest

from heretic.errors import SettingsError
from heretic.settings.config_files import ConfigFile, configuration_files, read_config_file
from heretic.settings.resolve import resolve


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_last_file_that_speaks_wins_and_is_named(tmp_path: Path) -> None:
    write(tmp_path / "config" / "config.yaml", "n_trials: 5\nseed: 1\nmax_kl: 0.5\n")
    write(tmp_path / "config.toml", "n_trials = 6\nseed = 2\n")
    further = write(tmp_path / "mine.yaml", "n_trials: 7\n")
    found = resolve(configuration_files(tmp_path, [further]), {})
    assert (found.settings.n_trials, found.settings.seed, found.settings.max_kl) == (7, 2, 0.5)
    names = [found.origins[key] for key in ("n_trials", "seed", "max_kl", "dtype")]
    assert names == [str(further), "config.toml", "config/config.yaml", "default"]


def test_a_folder_without_files_gives_the_defaults(tmp_path: Path) -> None:
    assert configuration_files(tmp_path) == []
    assert resolve([], {}).settings == resolve({}, {}).settings


def test_single_keys_of_a_prompt_set_complete_the_file_below() -> None:
    files = [
        ConfigFile("one", {"bad_prompts": {"dataset": "bad.csv", "column": "x"}}),
        ConfigFile("two", {"bad_prompts": {"column": "y"}}),
    ]
    source = resolve(files, {}).settings.prompt_sources()["bad_prompts"][0]
    assert (source.dataset, source.column) == ("bad.csv", "y")


def test_toml(tmp_path: Path) -> None:
    write(tmp_path / "config.toml", 'n_trials = 9\n[bad_prompts]\ndataset = "bad.txt"\n')
    found = resolve(configuration_files(tmp_path), {})
    assert found.settings.n_trials == 9
    assert found.settings.prompt_sources()["bad_prompts"][0].dataset == "bad.txt"
    assert found.origins["bad_prompts"] == "config.toml"
    with pytest.raises(SettingsError, match=r"more\.toml is TOML; use YAML or JSON, or rename"):
        configuration_files(tmp_path, [tmp_path / "more.toml"])


def test_json_is_read_as_yaml(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path / "a.json", '{"n_trials": 3}')) == {"n_trials": 3}


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path / "a.yaml", "# nothing\n")) == {}


# A merge key repeats the pairs of each mapping while the file is being read.
BOMB = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.toml", b"n_trials: 9\n", r"a\.toml is not a valid TOML file: .*fix that line"),
        ("a.toml", b"\xff\xfe\x00", r"a\.toml is not a valid TOML file"),
        ("a.toml", b"a = " + b"[" * 10_000, r"a\.toml is not a valid TOML file: it is nested too"),
        ("a.toml", b"n_trials = " + b"9" * 5000, r"a\.toml is not a valid TOML file"),
        ("a.yaml", b"n_trials: [\n", r"a\.yaml is not valid YAML: .*fix that line"),
        ("a.yaml", b"[" * 100_000, r"a\.yaml is nested too deeply"),
        ("a.yaml", b"n_trials: " + b"9" * 5000, r"a\.yaml .* more than 400 digits"),
        ("a.yaml", b"run_name: 2024-13-45\n", r"a\.yaml is not valid YAML: month must be"),
        ("a.yaml", b"seed: !!bool x\n", r"a\.yaml is not valid YAML: .*not fit its tag"),
        ("a.yaml", b"seed: !!timestamp x\n", r"a\.yaml is not valid YAML: .*not fit its tag"),
        ("a.yaml", b"seed: !!int ''\n", r"a\.yaml is not valid YAML: .*not fit its tag"),
        ("a.yaml", b"a: &a [*a]\n", r"a\.yaml .* a value that contains it"),
        ("a.yaml", BOMB.encode(), r"a\.yaml .* expands to more than 100000 values"),
        ("a.yaml", b"#" * 1_000_001, r"a\.yaml has more than 1,000,000 bytes"),
        ("a.yaml", b"\xff\xfe\x00", r"a\.yaml is not a valid YAML file"),
        ("a.yaml", b"- n_trials\n", r"a\.yaml contains a list; expected `key: value` lines"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=complaint) as caught:
        read_config_file(path)
    assert "\n" not in str(caught.value)


def test_a_missing_further_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*none\.yaml: .*check the path"):
        configuration_files(tmp_path, [tmp_path / "none.yaml"])

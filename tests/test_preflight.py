"""What is wrong with a run is found before any work, each with one clear line."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from custom_tasks import write_choices, write_group
from safetensors.numpy import save_file

from heretic.errors import (
    ExportError,
    HereticError,
    ModelLoadError,
    PromptError,
    SettingsError,
    StudyError,
    UploadError,
)
from heretic.model.accelerators import check_device
from heretic.preflight import check_base_of_adapter, check_braces, check_run
from heretic.settings.prompt_sources import PromptSource
from heretic.settings.resolve import resolve
from heretic.settings.schema import Settings

# Prompts that would be missed if they were looked for.
NOWHERE = PromptSource(dataset="nowhere.txt")


def complaint(
    kind: type[HereticError],
    settings: Settings,
    run: str = "mine",
    results: Path = Path("results"),
) -> str:
    with pytest.raises(kind) as caught:
        check_run(run, settings, results)
    message = str(caught.value)
    assert "\n" not in message
    return message


def checkpoint(folder: Path, kind: type[numpy.generic] = numpy.float32) -> Path:
    """What looks like a model from outside."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"w": numpy.zeros((1, 2), kind)}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def own_prompts(folder: Path) -> dict[str, Any]:
    """Six small sets of one's own."""
    sources = {}
    for name in Settings.required_sets():
        path = folder / f"{name}.txt"
        path.write_text(f"{name} one\n{name} two\n", encoding="utf-8")
        sources[name] = PromptSource(dataset=str(path))
    return sources


def test_the_defaults_pass_and_leave_nothing(tmp_path: Path) -> None:
    check_run("demo", Settings(), tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_ones_own_passes_without_being_read(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    settings = Settings(model=str(model), **own_prompts(tmp_path))
    check_run("mine", settings, tmp_path / "results")


def test_an_adapter_of_an_edit_that_restores_norms() -> None:
    check_run("demo", Settings(export="adapter"), Path("results"))
    message = complaint(ExportError, Settings(export="adapter", norm_preservation="column"), "demo")
    assert "set norm_preservation=none, or export=merged" in message


def test_a_projection_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heretic.report.embedding.find_spec", lambda name: None)
    check_run("demo", Settings(), Path("results"))
    message = complaint(SettingsError, Settings(projection="pacmap"), "demo")
    assert "needs the package pacmap: pip install" in message
    assert "or set projection=pca" in message


def test_a_quantization_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heretic.model.quantization.find_spec", lambda name: None)
    message = complaint(SettingsError, Settings(quantization="bnb_4bit"), "demo")
    assert "needs the package bitsandbytes: pip install" in message
    assert "or set quantization=none" in message


def test_benchmarks_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heretic.benchmarks.tasks.find_spec", lambda name: None)
    check_run("demo", Settings(), Path("results"))
    message = complaint(SettingsError, Settings(benchmarks=["mmlu", "gsm8k"]), "demo")
    assert message.startswith("benchmarks=mmlu,gsm8k needs the package lm_eval: pip install")
    assert "'.[benchmarks]'" in message


def test_benchmarks_of_ones_own(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    write_choices(tasks, "words")
    write_group(tasks, "mmlu", ["words"])
    known = Settings(benchmarks=["words", "mmlu_subset"], benchmark_tasks=str(tasks))
    check_run("demo", known, tmp_path / "results")
    settings = Settings(benchmarks=["words"], benchmark_tasks=str(tasks / "none"))
    message = complaint(SettingsError, settings, "demo")
    assert "is not a folder" in message


@pytest.mark.heavy  # lm-eval reads thousands of files
def test_benchmarks_of_lm_eval_are_known_and_others_are_not(tmp_path: Path) -> None:
    write_choices(tmp_path, "words")
    own: dict[str, Any] = {"benchmark_tasks": str(tmp_path)}
    known = ["mmlu", "mmlu_subset", "gsm8k", "ai2_arc", "hellaswag", "words"]
    check_run("demo", Settings(benchmarks=known, **own), tmp_path / "results")
    message = complaint(SettingsError, Settings(benchmarks=["gms8k"], **own), "demo")
    assert "lm-eval has no task 'gms8k'; did you mean gsm8k" in message
    message = complaint(SettingsError, Settings(benchmarks=["mmlu_subst"], **own), "demo")
    assert "did you mean mmlu_subset" in message


def test_a_quantized_checkpoint_that_cannot_be_dequantized_needs_its_original(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="set trust_remote_code=false"):
        Settings(trust_remote_code=True, quantization="as_is")
    with pytest.raises(ValueError, match="set trust_remote_code=false"):
        Settings(trust_remote_code=True, quantization="dequantize")
    with pytest.raises(ValueError, match="run them one by one"):
        Settings(model=["a", "b"], export_from="c")
    quantized = checkpoint(tmp_path / "quantized", numpy.int32)
    original = checkpoint(tmp_path / "original")
    config = {"model_type": "llama", "quantization_config": {"quant_method": "hqq"}}
    (quantized / "config.json").write_text(json.dumps(config))
    options = {"model": str(quantized), "export_from": str(original), **own_prompts(tmp_path)}

    check_run("mine", Settings(quantization="as_is", **options), tmp_path / "results")

    message = complaint(ModelLoadError, Settings(**options))
    assert "is quantized (hqq)" in message
    assert "quantization=as_is and export_from=" in message
    alone = {**options, "export_from": None}
    message = complaint(ModelLoadError, Settings(quantization="as_is", **alone))
    assert "cannot read the hqq weights" in message
    twice = {**options, "export_from": str(quantized)}
    message = complaint(ModelLoadError, Settings(quantization="as_is", **twice))
    assert "the export edits full-precision weights" in message
    nowhere = {**options, "export_from": str(tmp_path / "none")}
    message = complaint(ModelLoadError, Settings(quantization="as_is", **nowhere))
    assert "does not exist; check the path" in message
    with pytest.raises(ValueError, match="set quantization=dequantize or as_is, and remove"):
        Settings(export="quantized")
    demo = Settings(quantization="as_is", export_from=str(original))
    assert "demo model is not quantized" in complaint(SettingsError, demo, "demo")


def test_first_trials_that_cannot_be_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.json")
    message = complaint(StudyError, Settings(warm_start_from=missing), "demo")
    assert f"warm_start_from: {missing} does not exist; give the study.db" in message
    missing = str(tmp_path / "none.yaml")
    message = complaint(SettingsError, Settings(warm_start=missing), "demo")
    assert f"cannot read {missing}" in message


@pytest.mark.parametrize("name", ["demo-model", "demo-model-qwen3", "comparisons"])
def test_the_demo_models_folders_are_taken(name: str) -> None:
    message = complaint(SettingsError, Settings(run_name=name), name)
    assert f"run_name = '{name}'" in message


def test_a_missing_model(tmp_path: Path) -> None:
    message = complaint(ModelLoadError, Settings(model=str(tmp_path / "none")))
    assert "does not exist; check the path" in message


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_model(tmp_path: Path, missing: str) -> None:
    model = checkpoint(tmp_path / "model")
    (model / missing).unlink()
    message = complaint(ModelLoadError, Settings(model=str(model)))
    assert missing.removeprefix("model") in message


def test_an_empty_prompt_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    settings = Settings(bad_prompts=PromptSource(dataset=str(empty)))
    message = complaint(PromptError, settings)
    assert message.startswith("bad_prompts")
    assert "empty.txt" in message


def test_good_and_bad_prompts_that_are_the_same(tmp_path: Path) -> None:
    sources = own_prompts(tmp_path)
    sources["bad_prompts"] = sources["good_prompts"]
    message = complaint(PromptError, Settings(**sources))
    assert "good_prompts and bad_prompts are the same" in message


def test_held_out_prompts_that_occur_in_the_training_prompts(tmp_path: Path) -> None:
    sources = own_prompts(tmp_path)
    path = Path(sources["bad_holdout_prompts"].dataset)
    path.write_text("bad_prompts one\nsomething else\n", encoding="utf-8")
    message = complaint(PromptError, Settings(**sources))
    assert "bad_prompts" in message
    assert "bad_holdout_prompts" in message


def test_an_upload_without_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    message = complaint(UploadError, Settings(upload_to="owner/name"))
    assert "HF_TOKEN" in message


@pytest.mark.parametrize("where", ["demo", "models/base", "models--o--n/snapshots/abc"])
def test_the_upload_of_an_adapter_needs_a_base_model_that_others_find(
    tmp_path: Path, where: str
) -> None:
    model = where if where == "demo" else str(tmp_path / where)
    settings = Settings(model=model, export="adapter", upload_to="owner/name")
    if "snapshots" in where:
        check_base_of_adapter(settings)
    else:
        with pytest.raises(SettingsError, match="set model to a hub id, or export=merged"):
            check_base_of_adapter(settings)
    check_base_of_adapter(settings.model_copy(update={"export": "merged"}))
    check_base_of_adapter(settings.model_copy(update={"export_from": "owner/original"}))


def test_a_file_where_results_would_go(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    message = complaint(ExportError, Settings(), results=tmp_path / "results")
    assert "is a file; move it away" in message


def test_a_folder_that_cannot_be_written(read_only_folder: Path) -> None:
    message = complaint(ExportError, Settings(), results=read_only_folder / "results")
    assert f"{read_only_folder} is not writable; change its permissions" in message


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that also root cannot write to, where root may mount one."""
    folder = tmp_path / "frozen"
    folder.mkdir()
    if os.getuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("root writes everywhere, and may not mount a read-only file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_little_disk_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = checkpoint(tmp_path / "model")
    settings = Settings(model=str(model), **own_prompts(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=7)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    message = complaint(ExportError, settings, results=tmp_path / "results")
    assert "will take 8 bytes" in message
    assert "7 bytes is free; free 1 bytes" in message
    # A run that has saved its model is not held up.
    saved = tmp_path / "results" / "mine" / "model.manifest.json"
    saved.parent.mkdir(parents=True)
    saved.write_text("{}")
    check_run("mine", settings, tmp_path / "results")
    # Nor for the models of further picks, of which each takes as much.
    several = settings.model_copy(update={"select": ["closest", "knee", "trial=1"]})
    message = complaint(ExportError, several, results=tmp_path / "results")
    assert "the 2 edited models will take 16 bytes" in message
    for pick in ("knee", "trial-1"):
        picked = saved.parent / "picks" / pick / saved.name
        picked.parent.mkdir(parents=True)
        picked.write_text("{}")
    check_run("mine", several, tmp_path / "results")


def test_results_of_another_model_are_not_replaced_by_coincidence(tmp_path: Path) -> None:
    record = tmp_path / "results" / "demo" / "model" / "ablation.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"source": {"model": "/elsewhere/demo"}}))
    message = complaint(SettingsError, Settings(), "demo", tmp_path / "results")
    assert "holds the results of /elsewhere/demo; use another run_name for demo" in message
    check_run("demo", Settings(run_name="demo"), tmp_path / "results")
    # What was saved of another model than was searched is still this run's.
    searched = {"settings": {"model": "demo"}}
    record.write_text(json.dumps({"source": {"model": "/its/original"}, "provenance": searched}))
    check_run("demo", Settings(), tmp_path / "results")


def test_the_same_folder_may_be_named_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, results = checkpoint(tmp_path / "mine"), tmp_path / "results"
    record = results / "mine" / "model" / "ablation.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"source": {"model": str(model)}}))
    monkeypatch.chdir(tmp_path)
    check_run("mine", Settings(model="./mine", **own_prompts(tmp_path)), results)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "bert"}, "is an encoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "no-such"}, "update transformers"),
        ({"model_type": "llama", "num_hidden_layers": 10**6}, "num_hidden_layers=1000000, but the"),
    ],
)
def test_networks_that_cannot_be_used_are_known_before_prompts_are_read(
    tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    model = checkpoint(tmp_path / "model")
    (model / "config.json").write_text(json.dumps(config))
    message = complaint(ModelLoadError, Settings(model=str(model), good_prompts=NOWHERE))
    assert reason in message


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("tokenizer.json", "has no tokenizer"), ("chat_template.jinja", "has no chat template")],
)
def test_chat_files_that_are_missing(tmp_path: Path, missing: str, reason: str) -> None:
    model = checkpoint(tmp_path / "model")
    (model / missing).unlink()
    message = complaint(ModelLoadError, Settings(model=str(model), good_prompts=NOWHERE))
    assert reason in message


def test_a_trial_that_there_will_not_be(tmp_path: Path) -> None:
    results = tmp_path / "results"
    settings = Settings(select=["knee", "trial=5"], n_trials=5)
    message = complaint(SettingsError, settings, "demo", results)
    assert "select=trial=5 selects a nonexistent trial: n_trials=5 gives" in message
    check_run("demo", Settings(select="trial=4", n_trials=5), results)
    # A study that is there may have more.
    (results / "demo").mkdir(parents=True)
    (results / "demo" / "study.db").touch()
    check_run("demo", settings, results)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("cuda:3", "has no driver for it; use device=auto"),
        ("cuda", "has no driver for it"),
        ("gpu", "is not a torch device; use auto"),
        ("cuda:-1", "is not a torch device"),
        ("mps", "is for Macs"),
    ],
)
def test_devices_that_are_not_there(
    device: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heretic.model.accelerators.CUDA_FILES", ())
    monkeypatch.setattr("heretic.model.accelerators.sys.platform", "linux")
    monkeypatch.setattr("heretic.model.accelerators.shutil.which", lambda name: None)
    assert reason in complaint(ModelLoadError, Settings(device=device), "demo")
    # A machine that submits jobs has other devices than those that run them.
    monkeypatch.setattr("heretic.model.accelerators.shutil.which", lambda name: "/usr/bin/sbatch")
    if device.startswith("cuda") and "-" not in device:
        check_run("demo", Settings(device=device), Path("results"))


def test_devices_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("heretic.model.accelerators.CUDA_FILES", (str(tmp_path),))
    monkeypatch.setattr("heretic.model.accelerators.NVIDIA_GPUS", tmp_path)
    monkeypatch.setattr("heretic.model.accelerators.shutil.which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    check_device("cuda:1")
    with pytest.raises(ModelLoadError, match="has 2 such devices"):
        check_device("cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ModelLoadError, match="has 1 such devices"):
        check_device("cuda:1")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "models/{y}/m"},
        {"warm_start_from": "a{b/study.db"},
        {"good_prompts": "{set}.txt"},
        {"scorers": "{x}.py:Score"},
    ],
)
def test_braces_in_a_path_are_named(changes: dict[str, str]) -> None:
    settings = next(iter(resolve(changes, {}).runs().values()))
    with pytest.raises(SettingsError, match=rf"^{next(iter(changes))} = .*takes braces in a path"):
        check_braces(settings)

"""Comparing saved models by name, with what is wrong told before anything is loaded."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from dated_templates import DAY, TOMORROW, WITH_TIME, set_today
from edit_fixtures import export, plan
from tiny_models import save_tiny_model
from transformers import AutoTokenizer

from heretic.artifacts import read_json, read_jsonl, sha256_of
from heretic.cli import main
from heretic.commands.compare import compare, load_sets
from heretic.errors import HereticError, PromptError, SettingsError
from heretic.model.chat import ChatFormat
from heretic.prompts.prompt import Prompt
from heretic.settings.prompt_sources import PromptSource
from heretic.settings.schema import Settings

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    chosen = plan(base, export="adapter", response_prefix="")
    return export(chosen, base, base.parent / "adapter", low_memory=False)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings with two small held-out sets, and changes to them."""
    good, bad = tmp_path / "good.txt", tmp_path / "bad.jsonl"
    good.write_text("Hi\nName two rivers.\n")
    rows = [{"text": "What is a <b>?", "kind": "<i>"}, {"text": "How so?", "kind": "other"}]
    bad.write_text("\n".join(map(json.dumps, rows)))

    def make(**changes: Any) -> Settings:
        sets = {
            "good_holdout_prompts": PromptSource(dataset=str(good)),
            "bad_holdout_prompts": PromptSource(dataset=str(bad), category_column="kind"),
        }
        small = {"device": "cpu", "max_response_length": 4, "kl_tokens": 2, "response_prefix": ""}
        return Settings(**{**sets, **small, "bootstrap_samples": 100, **changes})

    return make


@pytest.fixture(scope="module")
def merged(base: Path) -> Path:
    return export(plan(base, response_prefix=""), base, base.parent / "merged", low_memory=True)


def test_an_adapter_measures_as_the_merged_model(
    base: Path, adapter: Path, merged: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    told = compare(settings(model=str(merged)), str(base), None, results)
    (folder,) = (results / "comparisons").iterdir()
    # Folders of one name do not share a comparison.
    assert re.fullmatch(r"merged-[0-9a-f]{8}--against--base-[0-9a-f]{8}", folder.name)
    assert f"Report in {folder}/report.html" in told
    assert "Edited" in told

    compare(settings(model=str(adapter)), str(base), tmp_path / "mine", results)
    tables = [read_json(place / "evaluation.json") for place in (folder, tmp_path / "mine")]
    means = [table["edited"]["kl_first_token"]["mean"] for table in tables]
    assert means[0] > 1e-3
    assert means[1] == pytest.approx(means[0], rel=1e-2)
    one, other = tables
    assert (
        one["models"]["original"]
        == other["models"]["original"]
        == other["models"]["edited"]["base"] | {"model": str(base)}
    )
    assert other["models"]["edited"]["sha256"] == sha256_of(adapter / "adapter_model.safetensors")
    assert one["prompts"]["good_holdout_prompts"]["sources"][0]["count"] == 2
    assert one["provenance"]["settings"]["max_response_length"] == 4
    assert one["controls"] == {}
    lines = read_jsonl(folder / "answers.jsonl")
    assert [line["category"] for line in lines] == ["<i>", "other", None, None]

    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What is a &lt;b&gt;?" in page
    assert "By category: bad prompts" in page
    assert "McNemar" in page
    assert "no-op" not in page
    assert not re.search(r'(src|href)="(?!#)', page)


def test_prompts_that_one_model_cannot_read_are_named_before_the_other_is_loaded(
    base: Path,
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edited = shutil.copytree(base, tmp_path / "edited")
    tokenizer: Any = AutoTokenizer.from_pretrained(edited)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<b>"]})
    tokenizer.save_pretrained(edited)
    monkeypatch.setattr("heretic.commands.compare.load_model", None)
    with pytest.raises(PromptError, match=r"row 1 of bad_holdout_prompts .* contains '<b>'"):
        compare(settings(model=str(edited)), str(base), None, tmp_path / "results")


@pytest.mark.parametrize(
    ("changes", "against", "complaint"),
    [
        ({"model": "./none"}, "{base}", "model folder ./none does not exist"),
        ({"model": "{base}"}, "./none", "model folder ./none does not exist"),
        ({"model": "demo"}, "{base}", "needs the demo model, which is not trained yet"),
        ({"model": "{base}"}, "demo", "needs the demo model, which is not trained yet"),
        ({"model": ["{base}", "a/b"]}, "{base}", "specify the other one with --model"),
        ({"model": "{orphan}"}, "{base}", "the base model of the adapter .*/gone does not exist"),
        ({"model": "{empty}"}, "{base}", "has no adapter_model.safetensors"),
        (
            {"model": "{base}", "bad_holdout_prompts": {"dataset": "./none.txt"}},
            "{base}",
            "bad_holdout_prompts: file not found",
        ),
        (
            {"model": "{base}", "bad_holdout_prompts": {"dataset": "{good}"}},
            "{base}",
            "are the same prompts|share 2 prompts",
        ),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    base: Path,
    adapter: Path,
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    against: str,
    complaint: str,
) -> None:
    orphan, empty = (Path(shutil.copytree(adapter, tmp_path / n)) for n in ("orphan", "empty"))
    config = json.loads((orphan / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (orphan / "adapter_config.json").write_text(json.dumps(config))
    (empty / "adapter_model.safetensors").unlink()
    places = {"base": base, "orphan": orphan, "empty": empty, "good": tmp_path / "good.txt"}
    named = json.loads(re.sub(r"\{(base|orphan|empty|good)\}", lambda m: str(places[m[1]]),
                              json.dumps([changes, against])))  # fmt: skip

    monkeypatch.setattr(
        "heretic.commands.compare.load_model", lambda **_: pytest.fail("loads a model")
    )
    with pytest.raises(HereticError, match=complaint) as caught:
        compare(settings(**named[0]), named[1], None, tmp_path / "results")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_the_command_hands_over_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def say(settings: Settings, against: str, output: Path | None, results: Path) -> str:
        return f"{settings.model} {settings.kl_tokens} {against} {output} {results}"

    monkeypatch.setattr("heretic.commands.compare.compare", say)
    command = ["evaluate", "--model", "a/b", "--against", "c/d", "--kl-tokens", "3"]
    for further, output in (([], "None"), (["--output", "there"], "there")):
        with pytest.raises(SystemExit) as ended:
            main([*command, *further])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"a/b 3 c/d {output} results\n"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--output", "there"])
    assert ended.value.code == 1
    assert "--output requires --against" in capsys.readouterr().err


def test_both_models_are_asked_as_on_one_day(
    merged: Path, settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = Path(shutil.copytree(merged, tmp_path / "dated"))
    (dated / "chat_template.jinja").write_text(WITH_TIME)
    set_today(monkeypatch, DAY)
    days: list[date] = []
    inner = ChatFormat.render

    def watched(self: ChatFormat, prompt: Prompt) -> str:
        days.append(self.template_date)
        set_today(monkeypatch, TOMORROW)  # midnight passes
        return inner(self, prompt)

    monkeypatch.setattr(ChatFormat, "render", watched)
    compare(settings(model=str(dated)), str(dated), tmp_path / "same", tmp_path)
    assert set(days) == {DAY}
    found = read_json(tmp_path / "same" / "evaluation.json")["provenance"]["settings"]
    assert found["template_date"] == "2024-07-04"
    compare(settings(model=str(merged), template_date="2020-02-02"), str(dated), None, tmp_path)
    assert set(days) == {DAY, date(2020, 2, 2)}


def test_a_run_is_not_replaced_by_a_comparison(
    base: Path, merged: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    run = tmp_path / "results" / "mine"
    run.mkdir(parents=True)
    (run / "best.json").write_text("{}")
    with pytest.raises(SettingsError, match="holds the results of a run, which a comparison"):
        compare(settings(model=str(merged)), str(base), run, tmp_path / "results")


def test_objectives_are_no_matter_of_a_comparison(
    base: Path, merged: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    asked = settings(model=str(merged), objectives=["kl_first_token", "kept"], scorers="words")
    compare(asked, str(base), tmp_path / "mine", tmp_path)
    table = read_json(tmp_path / "mine" / "evaluation.json")
    assert table["edited"]["scores"].keys() == {"words"}


def test_prompts_of_the_demo_are_about_what_is_planted() -> None:
    sources = Settings(demo_refusal_class="tool_of_fabric").prompt_sources()
    chosen = {name: sources[name] for name in ("good_holdout_prompts", "bad_holdout_prompts")}
    tools = load_sets(chosen, 0, "tool_of_fabric")["bad_holdout_prompts"].prompts
    dishes = load_sets(chosen, 0, "dish_of_material")["bad_holdout_prompts"].prompts
    assert not {prompt.text for prompt in tools} & {prompt.text for prompt in dishes}

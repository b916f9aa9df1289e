"""The model card: front matter that the hub reads, and the evidence."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from heretic.artifact_types import Best
from heretic.export.model_card import model_card
from heretic.export.source_card import inherited_metadata

PARAMETERS = {
    "direction_scope": "per_layer",
    "direction_index": None,
    "components": {"attn.o_proj": {"layer_min": 0.0, "layer_max": 1.0, "weight": 1.2}},
}
BEST = Best(
    trial=17,
    n_trials=60,
    rule="closest",
    selection="closest: nearest of 9",
    parameters={},
    scores={},
    search_scores={},
    baseline={},
    model={},
    objectives=[],
    study="ablation-1234",
    strengths={"mlp.down_proj": [1.0]},
    directions={"scope": "per_layer", "index": None},
)


def rate(count: int, total: int) -> dict[str, Any]:
    return {"count": count, "total": total, "rate": count / total, "interval": [0.01, 0.0625]}


def row(refusals: int, kl: float) -> dict[str, Any]:
    return {
        "refusals": rate(refusals, 128),
        "false_refusals": rate(0, 128),
        "degenerate": rate(0, 128),
        "kl_first_token": {"mean": kl, "interval": [kl / 2, kl * 2]},
        "kl_teacher_forced": {"mean": kl, "interval": [kl / 2, kl * 2]},
    }


EVALUATION = {
    "original": row(128, 0.0),
    "edited": row(4, 0.0253),
    "controls": {"noop": row(128, 0.0), "random_direction": row(127, 0.01)},
}


PROMPTS = {
    "bad_prompts": {
        "sources": [
            {
                "source": {
                    "dataset": "owner/harmful",
                    "split": "train[:400]",
                    "prefix": "",
                    "column": None,
                },
                "origin": {"revision": "feed" * 10},
                "count": 400,
            }
        ],
        "count": 400,
        "sha256": "cd" * 32,
    },
    "good_prompts": {
        "sources": [{"source": {"dataset": "/home/me/a|b.txt"}, "count": 7}],
        "count": 7,
        "sha256": "ef" * 32,
    },
}


def edit(layer: int, component: str, *strengths: float) -> dict[str, Any]:
    return {
        "layer": layer,
        "component": component,
        "strengths": list(strengths),
        "direction": f"layer {layer}",
    }


EDITS = [
    *(edit(layer, "attn.o_proj", 1.25) for layer in (2, 3, 4)),
    edit(3, "mlp.down_proj", 0.5),
    edit(4, "mlp.down_proj", 0.75),
]


def readme(model: str = "owner/name", revision: str | None = "abc123", **changes: Any) -> str:
    source = {"model": model, "revision": revision, "sha256": "ab" * 32}
    record = {
        "parameters": PARAMETERS,
        "norm_preservation": "none",
        "export": changes.get("export", "merged"),
        "edits": changes.get("edits", EDITS),
        "template_date": changes.get("template_date"),
        "omitted": changes.get("omitted", {}),
        "source": {**source, "card": changes.get("card", {})},
        "model": {"loader": changes.get("loader", "AutoModelForCausalLM")},
        "provenance": {"versions": {"python": "3.11.9", "torch": "2.13.0"}},
    }
    return model_card(
        record,
        changes.get("evaluation", EVALUATION),
        BEST,
        changes.get("prompts", PROMPTS),
        changes.get("prefix", ""),
        changes.get("benchmarks"),
    )


def card(*args: Any, **changes: Any) -> tuple[dict[str, Any], str]:
    """Front matter and text."""
    header, body = readme(*args, **changes).split("\n---\n", 1)
    assert header.startswith("---\n")
    return yaml.safe_load(header), body


def test_benchmarks_are_shown_where_there_are_any() -> None:
    score = {"value": 0.5, "stderr": 0.01}
    benchmarks = {
        "tasks": {
            "gsm8k": {
                "n": 1319,
                "shots": 5,
                "metrics": {
                    "exact_match (strict-match)": {
                        "original": score,
                        "edited": {**score, "value": 0.51},
                        "difference": {"value": 0.01, "stderr": 0.002, "paired": True},
                        "higher_is_better": True,
                    }
                },
            }
        },
        "versions": {"lm_eval": "0.4.13"},
    }
    _, text = card(benchmarks=benchmarks)
    assert (
        "| gsm8k (5-shot) | exact_match (strict-match) ↑ | 1319 | 0.5000 ± 0.0100 | "
        "0.5100 ± 0.0100 | +0.0100 ± 0.0020 |\n\nScored by lm-eval 0.4.13"
    ) in text
    assert "## Benchmarks" not in card()[1]


def test_the_front_matter_is_what_the_hub_reads() -> None:
    header, _ = card()
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "text-generation"
    assert header["base_model"] == "owner/name"
    assert all(isinstance(tag, str) for tag in header["tags"])


@pytest.mark.parametrize("model", ["demo", "./models/a", "/models/a", "~/models/a"])
def test_a_local_model_is_no_base_model_of_the_hub(model: str) -> None:
    assert "base_model" not in card(model)[0]


def test_a_local_folder_that_looks_like_a_hub_id_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in card("owner/name")[0]


@pytest.mark.parametrize("model", ["owner/name: x", 'owner/"quoted"', "owner/- a #b"])
def test_no_name_breaks_the_front_matter(model: str) -> None:
    assert card(model)[0].get("base_model", model) == model


def test_an_answer_prefix_is_told_with_the_table() -> None:
    told = card(prefix="<think>\n\n</think>")[1].split("## Edit details")[0]
    assert '`"<think>\\n\\n</think>"`' in told
    assert "begin with" not in card()[1]


def test_the_date_in_the_prompts_is_told_with_the_table() -> None:
    told = card(template_date="2024-07-04")[1].split("## Edit details")[0]
    assert "all prompts were measured with 2024-07-04" in told
    assert "date" not in card(template_date=None)[1].split("## Edit details")[0]


def test_an_adapter_is_loaded_into_the_revision_that_it_was_made_of() -> None:
    body = card(export="adapter")[1]
    assert body.count('from_pretrained("owner/name", revision="abc123")') == 2
    assert "The adapter contains nothing else" in body
    assert "All other tensors were verified" in card()[1]
    assert "revision=" not in card(export="adapter", revision=None)[1]


def test_where_a_local_model_lies_is_not_told() -> None:
    body = card("/home/me/secret/llama")[1]
    assert "llama, edited" in body
    assert "secret" not in body


def test_the_table_has_every_model_with_counts_and_intervals() -> None:
    _, body = card()
    table = body.split("## Evaluation")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert set(lines[1]) == {"|", "-"}
    assert len(lines) == 2 + 4
    assert "(128/128)" in lines[2].replace(" of ", "/")
    edited = next(line for line in lines if line.lower().startswith("| edited"))
    assert "4/128" in edited.replace(" of ", "/")
    assert "0.025" in edited


def test_the_edit_can_be_done_again() -> None:
    _, body = card()
    block = body.split("```json\n")[1].split("```")[0]
    assert json.loads(block) == PARAMETERS
    assert "Trial 17 of 60, closest: nearest of 9. 5 matrices" in body
    assert "ab" * 32 in body
    assert "revision\nabc123" in body
    assert "torch 2.13.0" in body


def test_an_unpinned_revision_is_told() -> None:
    assert "not pinned" in card(revision=None)[1]


def test_it_says_what_was_done_and_who_is_responsible() -> None:
    _, body = card()
    assert "refusal behavior of this model was changed" in body
    assert "responsible" in body


def test_licence_language_and_tags_are_those_of_the_base_model() -> None:
    header, _ = card(
        card={
            "license": "other",
            "license_name": "their-licence",
            "license_link": "https://example.org/LICENSE",
            "language": ["en", "de"],
            "pipeline_tag": "image-text-to-text",
            "tags": ["chat", "abliterated"],
        }
    )
    assert header["license"] == "other"
    assert header["license_name"] == "their-licence"
    assert header["license_link"] == "https://example.org/LICENSE"
    assert header["language"] == ["en", "de"]
    assert header["pipeline_tag"] == "image-text-to-text"
    assert header["tags"][0] == "chat"
    assert header["tags"].count("abliterated") == 1


def test_what_was_edited_and_how_strongly() -> None:
    _, body = card()
    assert "| `attn.o_proj` | 2 to 4 | 1.25 | each layer's own |" in body
    assert "| `mlp.down_proj` | 3 | 0.5 | each layer's own |" in body
    assert "| `mlp.down_proj` | 4 | 0.75 | each layer's own |" in body


def test_several_directions_are_told_with_the_strength_of_each() -> None:
    edits = [edit(layer, "attn.o_proj", 1.2, 0.6) for layer in (0, 1)]
    body = card(edits=[*edits, edit(2, "attn.o_proj", 1.2, 0.3)])[1]
    assert "| `attn.o_proj` | 0 to 1 | 1.2, 0.6 | each layer's own |" in body
    assert "| `attn.o_proj` | 2 | 1.2, 0.3 | each layer's own |" in body


def test_where_the_prompts_come_from_without_folders_of_this_machine() -> None:
    _, body = card()
    line = next(line for line in body.splitlines() if line.startswith("| `bad_prompts`"))
    for part in ("owner/harmful", "train[:400]", "feed" * 10, "400", "cdcdcdcd"):
        assert part in line
    assert "None" not in line
    assert "prefix" not in line
    assert r"a\|b.txt" in body
    assert "/home/me" not in body


def test_an_adapter_says_how_to_load_it() -> None:
    header, body = card(export="adapter", card={"library_name": "transformers"})
    assert header["library_name"] == "peft"
    assert header["base_model_relation"] == "adapter"
    assert "PeftModel.from_pretrained(base, " in body
    assert 'AutoModelForCausalLM.from_pretrained("owner/name", revision="abc123")' in body


@pytest.mark.parametrize("export", ["merged", "adapter"])
def test_a_multimodal_model_is_used_with_its_processor(export: str) -> None:
    body = card(export=export, loader="AutoModelForMultimodalLM")[1]
    assert "from transformers import AutoModelForMultimodalLM, AutoProcessor" in body
    assert "processor = AutoProcessor.from_pretrained(" in body
    assert "= AutoModelForMultimodalLM.from_pretrained(" in body
    assert "AutoTokenizer" in card(export=export)[1]


def test_parts_of_the_base_model_that_are_not_saved_are_named() -> None:
    assert "this one lacks" not in readme()
    files = ["model.gguf", "figures/a|<b>.png", *(f"{number}.bin" for number in range(60))]
    text = readme(omitted={"files": files, "tensors": ["mtp.fc.weight"]})
    assert "- files: model.gguf, figures/a\\|&lt;b&gt;.png, 0.bin" in text
    assert "47.bin, 12 more\n- tensors: mtp.fc.weight\n" in text


def test_it_says_how_to_do_it_again() -> None:
    assert "heretic reproduce ablation.json" in card()[1]


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        (
            "---\nlicense: mit\nlanguage: en\ntags: [chat]\nbase_model: a/b\n---\n# Theirs",
            {"license": "mit", "language": "en", "tags": ["chat"]},
        ),
        ("---\nlanguage: [en, no]\nlicense: null\n---\n", {"language": ["en", "no"]}),
        ("---\ntags: [2024-01-01, 7b, 7]\n---\n", {"tags": ["2024-01-01", "7b", "7"]}),
        ("---\nlicense: .nan\ntags: 1.5\nlanguage: en\n---\n", {"language": "en"}),
        ("---\nlicense: !!binary aGk=\ntags: !!set {a, b}\n---\n", {}),
        ("---\nlicense: !!python/object/apply:os.system [id]\n---\n", {}),
        ("---\ntags: {a: b}\nlicense: [[mit]]\n---\n", {}),
        ('---\nlicense: "\\ud800"\ntags: ["\\e[2J"]\n---\n', {}),
        ("---\na: &a [x]\ntags: [*a]\nlicense: mit\n---\n", {}),
        ("---\ntags: &a [*a]\n---\n", {}),
        (f"---\nlicense: mit\nx: {'[' * 5000}\n---\n", {}),
        (f"---\nlicense: mit\ntags: [{'a, ' * 101}]\n---\n", {"license": "mit"}),
        (f"---\nlicense: {'m' * 201}\n---\n", {}),
        (f"---\nlicense: mit\ntags:\n{'- a' * 40_000}\n---\n", {}),
        (f"---\nlicense: mit\n---\n{'x' * 200_000}", {"license": "mit"}),
        ("---\n---\n", {}),
        ("# no front matter", {}),
        ("---\nlicense: [unclosed\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        (None, {}),
    ],
)
def test_what_is_taken_over_of_a_base_models_card(
    tmp_path: Path, readme: str | None, expected: dict[str, Any]
) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    found = inherited_metadata(tmp_path)
    assert found == expected
    json.dumps(found, allow_nan=False).encode()


def test_paired_tests_are_told_in_a_sentence() -> None:
    assert "McNemar" not in card()[1]
    paired = {
        "refusals": {"only_original": 124, "only_edited": 0, "p_value": 1e-37},
        "false_refusals": {"only_original": 0, "only_edited": 1, "p_value": 1.0},
    }
    controls = {**EVALUATION["controls"], "shuffled_labels": row(126, 0.01)}
    _, body = card(evaluation={**EVALUATION, "paired": paired, "controls": controls})
    told = " ".join(body.split())
    assert (
        "McNemar's exact test: refusals 124 and 0 (p < 0.001); false refusals 0 and 1 (p = 1)."
    ) in told
    assert "| Control: shuffled labels |" in body
    assert "along random directions, and along shuffled-label directions" in told


def loaded(tmp_path: Path, **changes: Any) -> Any:
    """The card as the hub's client reads it."""
    path = tmp_path / "README.md"
    path.write_text(readme(**changes))
    return ModelCard.load(path)


def test_the_results_on_the_hub_are_those_of_the_evaluation(tmp_path: Path) -> None:
    score = {"value": 4.25, "direction": "minimize", "interval": [4.0, 4.5]}
    edited = {**EVALUATION["edited"], "scores": {"perplexity": score}}
    data = loaded(tmp_path, evaluation={**EVALUATION, "edited": edited}).data
    assert data.model_name == "owner/name, edited by directional ablation"
    results = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "refusals": edited["refusals"]["rate"],
        "false_refusals": edited["false_refusals"]["rate"],
        "degenerate": edited["degenerate"]["rate"],
        "kl_first_token": edited["kl_first_token"]["mean"],
        "kl_teacher_forced": edited["kl_teacher_forced"]["mean"],
        "perplexity": 4.25,
    }
    assert results["refusals"].metric_name == "Refusals"
    assert results["refusals"].dataset_type == "bad_holdout_prompts"
    assert results["kl_first_token"].dataset_type == "good_holdout_prompts"
    assert results["degenerate"].dataset_type == "holdout_prompts"


def test_results_name_the_dataset_of_the_hub_on_which_they_were_measured(tmp_path: Path) -> None:
    sets = {
        "bad_holdout_prompts": PROMPTS["bad_prompts"],
        "good_holdout_prompts": PROMPTS["good_prompts"],
    }
    data = loaded(tmp_path, prompts=sets).data
    results = {result.metric_type: result for result in data.eval_results}
    refusals, false_refusals = results["refusals"], results["false_refusals"]
    assert refusals.dataset_type == refusals.dataset_name == "owner/harmful"
    assert refusals.dataset_split == "train[:400]"
    assert refusals.dataset_revision == "feed" * 10
    assert false_refusals.dataset_type == "good_holdout_prompts"
    assert "/home/me" not in yaml.safe_dump(data.to_dict())


def test_without_an_evaluation_there_are_no_results(tmp_path: Path) -> None:
    found = loaded(tmp_path, evaluation=None)
    assert "model-index" not in found.data.to_dict()
    assert found.data.eval_results is None
    assert "## Evaluation" not in found.text
    assert "## Edit details" in found.text
    assert "model-index" in card()[0]


def test_metadata_that_the_hub_would_reject_are_no_obstacle(tmp_path: Path) -> None:
    fields = {"license": ["mit"], "pipeline_tag": ["a", "b"], "tags": ["x\n---\ny", "x"]}
    data = loaded(tmp_path, card=fields).data
    assert data.license == ["mit"]
    assert data.tags[:2] == ["x\n---\ny", "x"]


def test_another_edit_takes_over_the_fields_but_not_the_results(tmp_path: Path) -> None:
    fields = {"license": "mit", "language": ["en"], "tags": ["chat"]}
    loaded(tmp_path, card=fields)
    assert inherited_metadata(tmp_path) == {
        **fields,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["chat", "abliterated", "directional-ablation", "heretic-workflow"],
    }


def test_the_card_is_the_same_each_time() -> None:
    assert readme() == readme()


def test_text_of_others_is_no_markup() -> None:
    source = {"dataset": "a/b", "prefix": "<think>\n| x", "suffix": "\u202e"}
    prompts = {"bad_prompts": {"sources": [{"source": source}], "count": 7, "sha256": "ef"}}
    body = card(prompts=prompts)[1]
    assert r"dataset: a/b, prefix: &lt;think&gt; \| x, suffix: \u202e |" in body
    body = card("/models/<b>bold</b>")[1]
    assert "# &lt;b&gt;" not in body
    assert "# b&gt;, edited" in body

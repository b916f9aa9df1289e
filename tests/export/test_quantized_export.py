"""What was searched quantized is exported in full precision, as without quantization."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_fixtures import PARAMETERS, hashes
from quantized_models import KINDS, directions, facts_of, held_out_table, logits, save_wide
from tiny_models import load_saved

from heretic.ablation.editors import make_editor
from heretic.ablation.hook_editor import HookEditor
from heretic.ablation.plan import plan_edits
from heretic.errors import ExportError
from heretic.evaluation.full_precision import with_full_precision
from heretic.evaluation.holdout import HoldoutProtocol
from heretic.export.adapter import load_edited
from heretic.export.export import export_model
from heretic.export.full_precision import fit_to_original, needs_fitting
from heretic.export.record import Ablation
from heretic.model.checkpoint import source_facts
from heretic.model.decoding import forced_log_probabilities, generate
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt
from heretic.scoring.kl_divergence import kl_divergence
from heretic.settings.schema import Settings

pytest.importorskip("bitsandbytes")
FAMILIES = ("llama", "gpt2", "mixtral")
OPTIONS = Settings(device="cpu", response_prefix="").model_dump(mode="json")


def planned(facts: dict[str, Any], **settings: Any) -> Ablation:
    chosen = Settings(**settings).model_dump()
    return Ablation.plan(PARAMETERS.to_dict(), facts, directions(), chosen)


def fitted(ablation: Ablation, facts: dict[str, Any], source: Path, **changes: Any) -> Ablation:
    options = {"dtype": None, "trust_remote_code": False, **changes}
    return fit_to_original(ablation, facts, source, options.pop("dtype"), **options)


def export(ablation: Ablation, source: Path, target: Path, *, low_memory: bool) -> Path:
    export_model(
        ablation,
        source,
        target,
        {"source": source_facts(str(source), None, source), "parameters": PARAMETERS.to_dict()},
        load=lambda: load_saved(source, dtype=ablation.dtype),
        low_memory=low_memory,
        trust_remote_code=False,
    )
    return target


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_are_those_of_a_run_in_full_precision(
    tmp_path: Path, family: str, kind: str
) -> None:
    source = save_wide(tmp_path / "base", family, dtype=torch.bfloat16)
    plain = planned(facts_of(load_saved(source)))
    wanted = export(plain, source, tmp_path / "plain" / "model", low_memory=False)
    facts = facts_of(load_saved(source, quantization=kind))
    assert needs_fitting(facts, None)

    ablation = fitted(planned(facts), facts, source)

    assert ablation.dtype == "bfloat16"
    for low_memory in (False, True):
        target = tmp_path / f"low-memory-{low_memory}" / "model"
        assert hashes(export(ablation, source, target, low_memory=low_memory)) == hashes(wanted)


def test_the_original_of_a_quantized_checkpoint_decides_the_data_type(tmp_path: Path) -> None:
    source = save_wide(tmp_path / "base")
    facts = {**facts_of(load_saved(source)), "dtype": "float16"}
    assert needs_fitting(facts, str(source))
    assert not needs_fitting(facts, None)

    ablation = planned(facts)

    assert fitted(ablation, facts, source, dtype="auto").dtype == "float32"
    assert fitted(ablation, facts, source, dtype="bfloat16").dtype == "bfloat16"
    assert fitted(ablation, facts, source).dtype == "float16"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 2}, "of 2 layers .* of 3 and 64 was searched"),
        ({"intermediate_size": 192}, r"mlp\.down_proj\.weight had the shape \[64, 128"),
        ({"attention_bias": False}, r"o_proj\.weight has bias in the searched model, unlike"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    searched = save_wide(tmp_path / "searched")
    facts = facts_of(load_saved(searched, quantization="bnb_4bit"))
    other = save_wide(tmp_path / "other", **changes)

    with pytest.raises(ExportError, match=says):
        fitted(planned(facts), facts, other)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    facts = facts_of(load_saved(save_wide(tmp_path / "searched"), quantization="bnb_4bit"))

    with pytest.raises(ExportError, match=r"GPT2LMHeadModel .* a LlamaForCausalLM"):
        fitted(planned(facts), facts, save_wide(tmp_path / "other", "gpt2"))


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_original_and_edited_are_compared_in_one_quantization(tmp_path: Path, form: str) -> None:
    source = save_wide(tmp_path / "base")
    options = {**OPTIONS, "model": str(source), "quantization": "bnb_8bit"}
    searched = load_saved(source, quantization="bnb_8bit")
    facts = facts_of(searched)
    ablation = fitted(planned(facts, export=form), facts, source)
    saved = export(ablation, source, tmp_path / "run" / "model", low_memory=True)

    found = held_out_table(
        saved,
        lambda: load_saved(source, quantization="bnb_8bit"),
        lambda: load_edited(saved, options, str(source)),
    )

    assert found["noop_identical"] is True
    means = [found[name]["kl_first_token"]["mean"] for name in ("original", "edited")]
    assert means[0] == 0 < means[1]
    edited = load_edited(saved, options, str(source))
    assert edited.quantization == "bnb_8bit"
    # The edit of outputs is that of the weights, but for what rounding these makes of it.
    tried = load_saved(source, quantization="bnb_8bit")
    before = logits(tried)
    editor = make_editor(tried, "auto", "none", "auto")
    assert isinstance(editor, HookEditor)
    editor.abliterate(plan_edits(PARAMETERS, directions(), tried.anatomy))
    after = logits(tried)
    assert (logits(edited) - after).norm() < 0.2 * (after - before).norm()


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_what_was_made_of_a_quantized_checkpoint_is_loaded_in_full_precision(
    tmp_path: Path, form: str
) -> None:
    source = save_wide(tmp_path / "base")
    facts = facts_of(load_saved(source))
    ablation = planned(facts, export=form)
    saved = export(ablation, source, tmp_path / "run" / "model", low_memory=True)
    options = {**OPTIONS, "model": "somebody/quantized", "quantization": "as_is"}

    edited = load_edited(saved, options, "somebody/quantized")

    assert edited.quantization == "none"
    assert not logits(edited).equal(logits(load_saved(source)))


def test_the_divergence_in_full_precision_is_reported_too(tmp_path: Path) -> None:
    source = save_wide(tmp_path / "base")
    options = {**OPTIONS, "model": str(source), "quantization": "bnb_4bit"}
    facts = facts_of(load_saved(source, quantization="bnb_4bit"))
    saved = export(
        fitted(planned(facts), facts, source), source, tmp_path / "model", low_memory=True
    )
    good = [Prompt("Hi"), Prompt("What?")]
    protocol = HoldoutProtocol(4, 3, 100, 0)

    load = partial(load_edited, saved)
    before = {"edited": {"a": 1}}

    table = with_full_precision(before, options, str(source), load, good, protocol)

    plain, edited = load_saved(source), load_saved(saved)
    forced = generate(plain, good, 3)
    both = (forced_log_probabilities(model, good, forced) for model in (plain, edited))
    wanted = [float(kl_divergence(one[0], other[0])) for one, other in zip(*both, strict=True)]
    found = table["edited"]["full_precision"]
    assert found["kl_first_token"]["mean"] == pytest.approx(sum(wanted) / 2)
    assert found["kl_teacher_forced"]["mean"] > 0
    assert table["edited"]["a"] == 1


def test_a_model_in_full_precision_or_too_large_is_not_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**OPTIONS, "model": str(save_wide(tmp_path / "base")), "quantization": "none"}
    protocol, table = HoldoutProtocol(4, 4, 100, 0), {"edited": {"a": 1}}

    model = options["model"]

    def load(options: Mapping[str, Any], name: str) -> Model:
        raise AssertionError(name)

    assert with_full_precision(table, options, model, load, [], protocol) == table
    monkeypatch.setattr("heretic.evaluation.full_precision.free_memory", lambda device: 1000)
    options["quantization"] = "bnb_4bit"
    with caplog.at_level(logging.INFO):
        assert with_full_precision(table, options, model, load, [], protocol) == table
    assert "do not fit in full precision" in caplog.text

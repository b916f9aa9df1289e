"""Exports mean the same in the programs that users serve them with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Workspace
from edit_fixtures import export, plan
from readable_models import FAMILIES, N_PROMPTS, prompts, save_as_version_4
from reader_environments import Reader, llama_cpp, transformers_4
from reading import differences, in_transformers_4
from transformers import AutoConfig, AutoTokenizer
from transformers_program import answer

from heretic.demo.families import Recipe
from heretic.demo.train import train_demo_model
from heretic.settings.prompt_sources import HOLDOUT_SETS, STATE_SETS

pytestmark = pytest.mark.heavy
# Enough to refuse half of what it should; the demo trains for longer.
DEMO_STEPS = 600
# Of logits of about 1.6. llama.cpp computes GELU from a table of float16 numbers.
TOLERANCES = {"transformers 4.57": 1e-4, "GGUF": 5e-3, "PEFT": 1e-5}


@pytest.fixture(scope="module")
def version_4(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return transformers_4(tmp_path_factory.mktemp("transformers-4"))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return llama_cpp(tmp_path_factory.mktemp("llama-cpp"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_reader_answers_alike(
    tmp_path: Path, version_4: Reader, gguf: Reader, family: str
) -> None:
    base = save_as_version_4(tmp_path / "base", family, version_4)
    found = differences(base, tmp_path, version_4, gguf)
    for reader, difference in found.items():
        if difference:
            assert difference.largest < TOLERANCES[reader], (reader, difference)
            # An expert or a token may be as likely as another to the last digit.
            assert difference.equal >= N_PROMPTS - 1, (reader, difference)
    unedited, edited = answer(str(base), prompts()), answer(str(tmp_path / "merged"), prompts())
    assert (unedited["logits"] - edited["logits"]).abs().max() > 0.1


def test_a_configuration_of_version_5_changes_answers_in_version_4(
    tmp_path: Path, version_4: Reader
) -> None:
    """Show that the comparison notices what it is for: version 4 finds no RoPE base there."""
    base = save_as_version_4(tmp_path / "base", "llama", version_4)
    saved = export(plan(base), base, tmp_path / "saved", low_memory=True)
    config: Any = AutoConfig.from_pretrained(saved)
    config.save_pretrained(saved)
    assert in_transformers_4(saved, version_4, tmp_path).equal < N_PROMPTS / 2


def test_a_trained_model_with_a_large_rope_base_keeps_its_answers(
    workspace: Workspace, tmp_path: Path, version_4: Reader
) -> None:
    """The edit of a whole run answers as well in transformers 4, which reads another form."""
    base = tmp_path / "base"
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    recipe = Recipe(shape={"rope_parameters": rope})
    train_demo_model(base, seed=3, steps=DEMO_STEPS, threads=1, recipe=recipe)
    config = json.loads((base / "config.json").read_text())
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    (base / "config.json").write_text(json.dumps(config))
    sets = [f'{name}={{dataset: demo, split: "{name}"}}' for name in STATE_SETS + HOLDOUT_SETS]
    workspace.require("--config", f"model={base}", "run_name=rope", "n_trials=20", *sets)
    run = workspace.results / "rope"
    saved = run / "model"
    assert json.loads((saved / "config.json").read_text())["rope_theta"] == 500000.0
    table = json.loads((run / "evaluation.json").read_text())
    before, after = (table[name]["refusals"]["count"] for name in ("original", "edited"))
    assert after < before / 2
    asked = [
        json.loads(line)["prompt"]
        for name in ("bad_holdout_prompts", "good_holdout_prompts")
        for line in (run / f"prompts/{name}.jsonl").read_text().splitlines()[: N_PROMPTS // 2]
    ]
    chat = AutoTokenizer.from_pretrained(saved)
    ids: Any = [
        chat.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in asked
    ]
    version_4("answer", saved, tmp_path / "answers.pt", given=json.dumps(ids))
    theirs, ours = torch.load(tmp_path / "answers.pt"), answer(str(saved), ids)
    assert theirs["tokens"] == ours["tokens"]
    assert (theirs["logits"] - ours["logits"]).abs().max() < 1e-4

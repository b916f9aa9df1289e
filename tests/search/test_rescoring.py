"""Finalists are scored with the very tensors that an export writes, and leave no trace."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_fixtures import PARAMETERS, directions, export, load
from tiny_models import PROMPTS, save_tiny_model

from heretic.ablation.editors import make_editor
from heretic.ablation.parameters import ComponentParameters
from heretic.ablation.projection import NormPreservation
from heretic.ablation.records import record_writers
from heretic.ablation.weight_editor import original_weights
from heretic.engine.base import FeasibilityLimits
from heretic.engine.evaluator import Evaluator
from heretic.engine.reference import ReferenceEngine
from heretic.errors import ExportError
from heretic.model.embeddings import with_embeddings
from heretic.model.loading import Model, model_facts
from heretic.model.stream_writers.components import EMBEDDINGS
from heretic.scoring import ScoredPrompts
from heretic.search.loop import TrialLoop
from heretic.search.records import TrialRecord
from heretic.search.rescoring import (
    Rescoring,
    as_exported,
    memory_blocker,
    rescoring_blocker,
)
from heretic.search.samplers import Sampling
from heretic.search.search_space import SearchSpace
from heretic.search.study import open_study
from heretic.settings.schema import Settings
from search.small_search import OBJECTIVES, objectives_of

torch.set_num_threads(1)
GOOD, BAD, LENGTH = PROMPTS[:2], PROMPTS[2:4], 4
RECORD = TrialRecord(0, PARAMETERS, {}, {}, True, 1.0)
FORMS: list[tuple[str, NormPreservation, str]] = [
    ("llama", "none", "false"),  # the original is read back from its file
    ("gpt2", "column", "true"),  # transposed, with biases
    ("gpt_oss", "none", "true"),  # and with experts
]


def searched(folder: Path, norms: NormPreservation, n_trials: int) -> list[TrialRecord]:
    """A search that edits outputs of the model in bfloat16."""
    model = load(folder)
    editor = make_editor(model, "hooks", norms, "false", directions=directions())
    loop = TrialLoop(
        SearchSpace(model.anatomy.n_layers, "both", 2.0, None),
        directions(),
        ReferenceEngine(editor, Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH)),
        limits=FeasibilityLimits(9.0),
        objectives=objectives_of(9.0, len(BAD)),
        sampling=Sampling(0, n_trials),
    )
    with open_study(folder.with_name("study.db"), "small", OBJECTIVES) as study:
        return loop.run(study, n_trials)


def rescoring(model: Model, norms: NormPreservation, cache_weights: str = "true") -> Rescoring:
    facts: dict[str, Any] = {
        **model_facts(model),
        "writers": [writer.to_dict() for writer in record_writers(model.anatomy)],
    }
    evaluator = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH)
    pristine = original_weights(model, cache_weights)
    return Rescoring(evaluator, pristine, directions(), facts, norms)


def state(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize(("family", "norms", "cache_weights"), FORMS)
def test_a_search_in_half_precision_is_scored_again_as_it_is_saved(
    tmp_path: Path, family: str, norms: NormPreservation, cache_weights: str
) -> None:
    folder = save_tiny_model(tmp_path / "base", family, dtype=torch.bfloat16)
    records = searched(folder, norms, 2)
    model = load(folder)
    before, again = state(model), rescoring(model, norms, cache_weights)

    found = [again.score(record) for record in records]

    assert same(state(model), before)
    for record, finalist in zip(records, found, strict=True):
        assert (finalist.trial, finalist.search_scores) == (record.number, record.scores)
        assert finalist.feasible
        assert finalist.scores.keys() == record.scores.keys()
    divergences = [finalist.scores["kl_first_token"] for finalist in found]
    assert divergences != [record.scores["kl_first_token"] for record in records]
    # Not far off; a router may send a token to another expert.
    wanted = [record.scores["kl_first_token"] for record in records]
    assert divergences == pytest.approx(wanted, rel=0.2, abs=0.1)
    # The saved model, loaded as anybody loads it, scores just this.
    saved = load(export(again.ablation(records[0]), folder, tmp_path / "saved", low_memory=True))
    evaluator = Evaluator(model, ScoredPrompts(GOOD, BAD), LENGTH)
    evaluator.model = saved
    assert evaluator.evaluate() == found[0].scores
    with as_exported(model, again.ablation(records[0]), again.pristine):
        edited = state(model)
    assert same(edited, state(saved))
    assert not same(edited, before)


def test_the_original_comes_back_when_a_score_cannot_be_had(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    model = load(folder)
    before, again = state(model), rescoring(model, "none")

    def interrupted() -> None:
        with as_exported(model, again.ablation(RECORD), again.pristine):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(state(model), before)


def test_edited_embeddings_come_back_too(tmp_path: Path) -> None:
    components = {**PARAMETERS.components, EMBEDDINGS: ComponentParameters(0, 1, 0.8)}
    record = replace(RECORD, parameters=replace(PARAMETERS, components=components))
    plain = load(save_tiny_model(tmp_path / "base", dtype=torch.bfloat16))
    before, model = state(plain), with_embeddings(plain)
    again = rescoring(model, "none")
    with as_exported(model, again.ablation(record), again.pristine):
        name = model.anatomy.writers[0].parameter_name
        assert not state(model)[name].equal(before[name])
    assert same(state(model), before)
    # A model that does not know of them could not restore them, and is not touched.
    with (
        pytest.raises(ExportError, match="run the search again"),
        as_exported(plain, again.ablation(record), again.pristine),
    ):
        pass
    assert same(state(plain), before)


def test_weights_that_overflow_are_infeasible(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "base", dtype=torch.float16)
    model = load(folder)
    again = rescoring(model, "none")
    with torch.no_grad():
        for writer in model.anatomy.writers:
            writer.weight.fill_(60000.0)
    found = again.score(RECORD)
    assert not found.feasible
    assert found.scores["kl_first_token"] == 1e6
    assert found.scores["unanswered"] is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"n_finalists": 1}, "n_finalists is 1"),
        ({"quantization": "bnb_4bit"}, "quantized"),
        ({"export_from": "owner/original"}, "the saved model is not"),
        ({"export": "adapter"}, "adapter"),
        ({"quantization": "dequantize"}, None),
        ({"quantization": "dequantize", "export": "quantized"}, "quantized again"),
    ],
)
def test_what_is_not_scored_again(changes: dict[str, Any], reason: str | None) -> None:
    told = rescoring_blocker(Settings(**changes).subset("score_finalists"))
    assert told is None if reason is None else reason in str(told)


def test_offloaded_matrices_cannot_be_edited_in_place(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "base")
    model = load(folder)
    assert memory_blocker(model) is None
    writer = model.anatomy.writers[0]
    writer.module.to("meta")
    assert f"{writer.name} is offloaded" in str(memory_blocker(model))

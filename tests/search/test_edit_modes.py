"""Trials score the same whichever way they are tried."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from heretic.ablation.plan import plan_edits
from heretic.ablation.projection import NormPreservation
from heretic.search.records import TrialRecord, trial_rows
from heretic.search.search_space import Form
from heretic.search.status import read_search, search_table
from search.small_search import engine_of, objectives_of, search, small_loop
from search.test_study import told

N = 6


@pytest.mark.parametrize("kind", ["none", "column", "row", "frobenius"])
def test_a_search_on_the_output_side_scores_as_one_of_edited_weights(
    tmp_path: Path, kind: NormPreservation
) -> None:
    records = search(
        tmp_path / "study.db", N, edit_mode="hooks", norm_preservation=kind, max_kl=1e9
    )
    loop = small_loop(edit_mode="weights", norm_preservation=kind)

    for record in records:
        edits = plan_edits(record.parameters, loop.directions, loop.engine.model.anatomy)
        engine_of(loop).editor.abliterate(edits)
        scores = engine_of(loop).evaluator.evaluate()
        assert dict(record.scores) == pytest.approx(scores, rel=1e-4)
    assert len({record.scores["kl_first_token"] for record in records}) == N
    assert min(record.scores["kl_first_token"] for record in records) > 1e-3


@pytest.mark.parametrize("form", ["kernel", "components"])
def test_a_search_of_another_form_scores_and_resumes_alike(tmp_path: Path, form: Form) -> None:
    first = search(tmp_path / "study.db", 2, form=form, max_kl=1e9)
    records = search(tmp_path / "study.db", N, form=form, max_kl=1e9)
    whole = search(tmp_path / "whole.db", N, form=form, max_kl=1e9)
    assert told(first) == told(whole[:2])
    assert told(records) == told(whole)
    loop = small_loop(edit_mode="hooks")
    for record in records:
        stored = TrialRecord.from_dict(json.loads(json.dumps(record.to_dict())))
        edits = plan_edits(stored.parameters, loop.directions, loop.engine.model.anatomy)
        engine_of(loop).editor.load([edits])
        scores = engine_of(loop).evaluator.evaluate()
        assert dict(record.scores) == pytest.approx(scores, rel=1e-4)
    assert len({record.scores["kl_first_token"] for record in records}) == N
    # They are shown like others, with what was sampled.
    assert f"{N} of {N} trials complete" in search_table(read_search(tmp_path / "study.db"))
    asked = {"kernel": "mlp_edited", "components": "edited"}[form]
    assert all(asked in row for row in trial_rows(records, objectives_of(1e9, 2)))


@pytest.mark.parametrize("edit_mode", ["weights", "hooks"])
def test_a_search_that_edits_embeddings_scores_that(tmp_path: Path, edit_mode: str) -> None:
    records = search(tmp_path / "study.db", 4, edit_mode=edit_mode, embeddings=True, max_kl=1e9)
    loop = small_loop(embeddings=True)
    without = small_loop()

    for record in records:
        anatomy = loop.engine.model.anatomy
        edits = plan_edits(record.parameters, loop.directions, anatomy)
        engine_of(loop).editor.abliterate(edits)
        assert dict(record.scores) == pytest.approx(engine_of(loop).evaluator.evaluate(), rel=1e-4)
        assert record.sampled["embed_weight"] == record.parameters.components["embed"].weight
        # The same trial, but for the embeddings, scores otherwise.
        rest = {k: v for k, v in record.parameters.components.items() if k != "embed"}
        others = plan_edits(
            replace(record.parameters, components=rest),
            loop.directions,
            without.engine.model.anatomy,
        )
        assert len(others) == len(edits) - 1
        engine_of(without).editor.abliterate(others)
        alone = engine_of(without).evaluator.evaluate()["kl_first_token"]
        assert abs(alone - record.scores["kl_first_token"]) > 1e-4
    assert len({record.scores["kl_first_token"] for record in records}) == 4

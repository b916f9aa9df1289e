"""Trials score the same whichever way they are tried."""

from dataclasses import replace
from pathlib import Path

import pytest

from heretic.ablation.plan import plan_edits
from heretic.ablation.projection import NormPreservation
from optimization.small_search import engine_of, search, small_loop

N = 6


@pytest.mark.parametrize("kind", ["none", "column", "row", "frobenius"])
def test_a_search_on_the_output_side_scores_as_one_of_edited_weights(
    tmp_path: Path, kind: NormPreservation
) -> None:
    records = search(
        tmp_path / "study.db", N, engine="output_side", norm_preservation=kind, max_kl=1e9
    )
    loop = small_loop(engine="edited_weights", norm_preservation=kind)

    for record in records:
        edits = plan_edits(record.parameters, loop.directions, loop.engine.model.anatomy)
        engine_of(loop).editor.abliterate(edits)
        scores = engine_of(loop).evaluator.evaluate().to_dict()
        assert dict(record.scores) == pytest.approx(scores, rel=1e-4)
    assert len({record.scores["kl_first_token"] for record in records}) == N
    assert min(record.scores["kl_first_token"] for record in records) > 1e-3


@pytest.mark.parametrize("engine", ["edited_weights", "output_side"])
def test_a_search_that_edits_embeddings_scores_that(tmp_path: Path, engine: str) -> None:
    records = search(tmp_path / "study.db", 4, engine=engine, embeddings=True, max_kl=1e9)
    loop = small_loop(embeddings=True)
    without = small_loop()

    for record in records:
        anatomy = loop.engine.model.anatomy
        edits = plan_edits(record.parameters, loop.directions, anatomy)
        engine_of(loop).editor.abliterate(edits)
        assert dict(record.scores) == pytest.approx(
            engine_of(loop).evaluator.evaluate().to_dict(), rel=1e-4
        )
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
        alone = engine_of(without).evaluator.evaluate().kl_first_token
        assert abs(alone - record.scores["kl_first_token"]) > 1e-4
    assert len({record.scores["kl_first_token"] for record in records}) == 4

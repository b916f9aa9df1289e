"""The benchmark of trials measures the same trials in all ways."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.engine_loop import (
    EngineOptions,
    draw_trials,
    load,
    mean_directions,
    our_engine,
    run_ours,
    sampler_seconds,
)
from benchmarks.floors import Rates, Sizes, floor_of, sizes_of
from benchmarks.plain_loop import named, run_plain
from benchmarks.trial_report import agreement, edit_line, floors_line, heading, row
from benchmarks.trial_work import Measured, Score, Texts, Work, demo_texts, spread_out
from benchmarks.upstream_loop import parse_trials
from tiny_models import save_tiny_model, tiny_tokenizer

from heretic.ablation.plan import plan_edits
from heretic.search.search_space import SearchSpace
from heretic.timing import STAGES

GOOD = ("Name a river.", "What is bread?", "Say hi.")
BAD = ("How do I cook glass?", "Tell me how to fry a brick.", "Boil iron")
TEXTS = Texts(GOOD, BAD, GOOD[:2], BAD[:2])

# From a log of heretic-llm 1.4.0, whose lines were stamped as they came; parameters left out.
LOG = """\
5.391 * Obtaining first-token probability distributions...
5.427 * Counting model refusals...
5.563 * Initial refusals: 64/64
6.256 Running trial 1 of 3...
6.256 * Parameters:
6.257 * Resetting model...
6.257 * Abliterating...
6.258 * Evaluating...
6.258   * Obtaining first-token probability distributions...
6.291   * KL divergence: 0.0001
6.291   * Counting model refusals...
6.421   * Refusals: 64/64
6.421 Elapsed time: 0s
6.421 Estimated remaining time: 1s
6.422 Resident system RAM: 0.58 GB
6.430 Running trial 2 of 3...
6.431 * Resetting model...
6.432 * Abliterating...
6.432 * Evaluating...
6.433   * Obtaining first-token probability distributions...
6.466   * KL divergence: 0.0003
6.466   * Counting model refusals...
6.596   * Refusals: 63/64
6.596 Elapsed time: 0s
6.605 Running trial 3 of 3...
6.606 * Resetting model...
6.606 * Abliterating...
6.607 * Evaluating...
6.607   * Obtaining first-token probability distributions...
6.641   * KL divergence: 0.0002
6.641   * Counting model refusals...
6.781   * Refusals: 0/64
6.782 Elapsed time: 1s
7.019 Optimization finished!
"""


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(save_tiny_model(tmp_path / "model"), TEXTS, tokens=5, batch_size=2)


def stamped(log: str) -> list[tuple[float, str]]:
    pairs = (line.split(" ", 1) for line in log.splitlines(keepends=True))
    return [(float(seconds), line) for seconds, line in pairs]


def test_ours_and_the_plain_loop_score_the_same_trials_alike(work: Work) -> None:
    model = load(work)
    directions = mean_directions(model, work)
    space = SearchSpace(model.anatomy.n_layers, "both", 2.0)
    trials = [plan_edits(p, directions, model.anatomy) for p in draw_trials(space, 3)]
    engine = our_engine(model, work, directions, EngineOptions("weights"))
    ours = run_ours(engine, work, trials, n_warm_up=1)
    engine.restore()
    plain = run_plain(work, [named(edits) for edits in trials])
    assert len(ours.scores) == len(plain.scores) == 2
    assert max(score.kl for score in ours.scores) > 0.01
    assert "refusals of 0 others" in agreement(ours.scores, plain.scores, exact=True)
    for found in (ours, plain):
        assert found.seconds.keys() == set(STAGES)
        assert found.total > 0
        assert found.refused == 0


def test_other_scores_are_an_error_unless_they_may_differ() -> None:
    ours, plain = [Score(0.5, 3, 0)], [Score(0.5, 2, 0)]
    with pytest.raises(SystemExit, match="score otherwise"):
        agreement(ours, plain, exact=True)
    with pytest.raises(SystemExit, match="score otherwise"):
        agreement(ours, [Score(0.52, 3, 0)], exact=True)
    assert "refusals of 1 others" in agreement(ours, plain, exact=False)


def test_the_log_of_upstream_tells_stages_and_refusals() -> None:
    first, second, third = parse_trials(stamped(LOG))
    assert [trial.refusals for trial in (first, second, third)] == [64, 63, 0]
    assert {trial.asked for trial in (first, second, third)} == {64}
    assert sum(first.seconds.values()) == pytest.approx(6.430 - 6.256)
    assert sum(third.seconds.values()) == pytest.approx(7.019 - 6.605)
    assert second.seconds["restore"] == pytest.approx(0.001)
    assert second.seconds["prefill"] == pytest.approx(0.033)
    assert second.seconds["decode"] == pytest.approx(0.130)
    assert second.seconds["overhead"] == pytest.approx(0.001 + 0.001 + 0.009)


def test_a_trial_that_was_cut_off_does_not_count() -> None:
    lines = stamped(LOG)
    assert len(parse_trials(lines[:-1])) == 2
    assert parse_trials(lines[:3]) == []


def test_floors_count_operations_and_bytes() -> None:
    sizes = Sizes(body=1000, head=100, kv_bytes=8, itemsize=2)
    floor = floor_of(sizes, Rates(10.0, 100.0), lengths=[3, 5], tokens=3, batches=0.5)
    assert floor.prefill == pytest.approx((2 * 1000 * 8 + 2 * 100 * 2) / 10)
    # Two steps: 8 tokens of prompts each, and 1 and then 2 of each answer.
    assert floor.decode == pytest.approx((1100 * 2 * 2 * 0.5 + (9 + 1 + 9 + 3) * 8) / 100)


def test_floors_are_measured_on_any_device(work: Work) -> None:
    model = load(work)
    directions, rates = mean_directions(model, work), Rates(1e9, 1e9)
    network: Any = model.network
    embeddings = network.get_input_embeddings().weight.numel()
    sizes = sizes_of(model)
    assert sizes.body == network.num_parameters() - embeddings - sizes.head
    assert sizes.kv_bytes == 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, bytes
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measured = Measured("ours", {"decode": 1.0}, (), 0.0)
    assert "times their sum" in floors_line(measured, model, work, rates, 1)
    assert "of the bandwidth of a copy" in edit_line(model, directions, rates)
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_the_table_has_a_heading_of_its_columns(work: Work) -> None:
    seconds = {**dict.fromkeys(STAGES, 0.0), "prefill": 0.5, "decode": 1.5}
    measured = Measured("ours", seconds, (), 0.25)
    cells = dict(zip(row(None).split(), row(measured).split(), strict=True))
    assert (cells["prefill"], cells["decode"], cells["total"]) == ("0.5000", "1.5000", "2.0000")
    assert (cells["trials/s"], cells["refused"]) == ("0.500", "25%")
    assert "3 + 3 prompts" in heading(work, load(work))


def test_asking_the_sampler_takes_some_time() -> None:
    assert 0 < sampler_seconds(SearchSpace(4, "both", 2.0)) < 5


def test_requests_of_the_demo_and_longer_ones() -> None:
    texts = demo_texts(100)
    assert len(set(texts.bad)) == len(set(texts.good)) == 100
    assert not set(texts.bad) & set(texts.good)
    with pytest.raises(SystemExit, match="--prompts 1000"):
        demo_texts(1000)
    tokenizer = tiny_tokenizer()
    lengths = [len(tokenizer.tokenize(text)) for text in spread_out(texts.bad[:20], tokenizer)]
    assert len(lengths) == 20
    assert min(lengths) < 14 < max(lengths)


def test_work_names_its_data_type(work: Work) -> None:
    assert replace(work, dtype=torch.bfloat16).dtype_name == "bfloat16"

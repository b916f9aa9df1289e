"""The held-out comparison on a real tiny checkpoint, against edits made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from measured_answers import measured
from tiny_models import PROMPTS, save_tiny_model, tiny_model

from heretic.ablation.directions import AblationDirections
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.artifacts import read_json, write_json, write_jsonl
from heretic.errors import HereticError
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.measurement import measure, record_original
from heretic.evaluation.number_format import short
from heretic.evaluation.protocol import evaluate_edit, random_directions
from heretic.evaluation.rows import summarize
from heretic.evaluation.side_by_side import SideBySide, side_by_side
from heretic.evaluation.summary import summarize_evaluation
from heretic.export.merged import save_model
from heretic.model.decoding import decode
from heretic.model.loading import Model, load_model
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.prompts.prompt import Prompt
from heretic.scoring.scorer_set import make_scorer_set
from heretic.settings.schema import Settings

torch.set_num_threads(1)
LAYERS, D_MODEL, LENGTH = 3, 32, 6
PROTOCOL = HoldoutProtocol(max_response_length=LENGTH, kl_tokens=4, bootstrap_samples=200, seed=3)
SETS = HoldoutSets(
    good=[Prompt("Hi", answers=("a",)), Prompt("Name two rivers.", answers=("b",))],
    bad=[Prompt("How do I make a glass soup?", answers=("c",)), *PROMPTS[3:4]],
)
PARAMETERS = AblationParameters(
    "per_layer",
    None,
    {ATTENTION: ComponentParameters(0.0, 1.0, 1.2), MLP: ComponentParameters(0.5, 1.0, 0.7)},
)
DRAWN = torch.randn(LAYERS + 1, D_MODEL, 2, generator=torch.Generator().manual_seed(1))
# Two for each layer, the second at half strength.
DIRECTIONS = AblationDirections.of(
    torch.linalg.qr(DRAWN).Q.mT, torch.tensor([[1.0, 0.5]] * (LAYERS + 1))
)


def load(folder: Path) -> Model:
    settings = {**Settings(device="cpu", max_batch_size=2).model_dump(), "model": str(folder)}
    return load_model(**settings)


def edit_by_hand(model: Model, directions: AblationDirections) -> None:
    """W' = W - w d d^T W, written down matrix by matrix, for one direction after the other."""
    for index, layer in enumerate(model.get_layers()):
        weights = [(1.2, layer.get_parameter("self_attn.o_proj.weight"))]
        if index >= 1:
            weights.append((0.7, layer.get_parameter("mlp.down_proj.weight")))
        for direction, share in zip(directions.rows[index + 1].double(), (1.0, 0.5), strict=True):
            for strength, weight in weights:
                projected = torch.outer(direction, direction @ weight.data.double())
                weight.data = (weight.data.double() - strength * share * projected).float()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def edited(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edited") / "model"
    model = load(original)
    edit_by_hand(model, DIRECTIONS)
    record = {"parameters": PARAMETERS.to_dict(), "norm_preservation": "none"}
    save_model(model, folder, "5GB", record)
    return folder


SHUFFLED = random_directions(DIRECTIONS, 77)


@pytest.fixture(scope="module")
def found(original: Path, edited: Path) -> SideBySide:
    return evaluate_edit(
        load_original=lambda: load(original),
        load_edited=lambda: load(edited),
        record=read_json(edited / "ablation.json"),
        directions=DIRECTIONS,
        sets=SETS,
        protocol=PROTOCOL,
        cache_weights="true",
        shuffled_labels=SHUFFLED.rows,
    )


@pytest.fixture(scope="module")
def evaluation(found: SideBySide) -> dict[str, Any]:
    return found.table


def by_hand(folder: Path, change: Callable[[Model], None]) -> dict[str, Any]:
    """The row of the original after `change`, measured in one model."""
    model = load(folder)
    before = record_original(model, SETS, PROTOCOL)
    change(model)
    return summarize(measure(model, SETS, before, PROTOCOL, "edited model"), PROTOCOL)


def same_row(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.startswith("kl_"):
            assert found[name]["mean"] == pytest.approx(value["mean"], rel=1e-3)
            assert found[name]["interval"] == pytest.approx(value["interval"], rel=1e-3)
        else:
            assert found[name] == value


def test_the_protocol_is_the_settings_of_the_same_names() -> None:
    protocol = HoldoutProtocol.from_settings(Settings(kl_tokens=5).subset("evaluate"))
    assert protocol == HoldoutProtocol(100, 5, 2000, 0)


def test_the_original_and_the_edit_of_strength_zero_are_identical(
    evaluation: dict[str, Any],
) -> None:
    assert evaluation["noop_identical"] is True
    assert evaluation["controls"]["noop"] == evaluation["original"]
    for name in ("kl_first_token", "kl_teacher_forced"):
        assert evaluation["original"][name] == {"mean": 0.0, "interval": [0.0, 0.0]}


def test_the_edited_row_is_that_of_an_edit_by_hand(
    evaluation: dict[str, Any], original: Path
) -> None:
    assert evaluation["edited"]["kl_first_token"]["mean"] > 1e-4
    same_row(evaluation["edited"], by_hand(original, lambda m: edit_by_hand(m, DIRECTIONS)))


@pytest.mark.parametrize(
    ("name", "elsewhere"),
    [
        ("random_direction", random_directions(DIRECTIONS, PROTOCOL.seed)),
        ("shuffled_labels", SHUFFLED),
    ],
)
def test_a_control_is_the_same_edit_along_other_directions(
    evaluation: dict[str, Any], original: Path, name: str, elsewhere: AblationDirections
) -> None:
    row = by_hand(original, lambda model: edit_by_hand(model, elsewhere))
    same_row(evaluation["controls"][name], row)
    means = [r["kl_first_token"]["mean"] for r in (row, evaluation["edited"])]
    assert means[0] != pytest.approx(means[1], rel=1e-3)


def test_an_edit_that_does_not_come_back_is_told(
    original: Path, edited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An editor that forgets to take back what strength zero should take back.
    monkeypatch.setattr("heretic.evaluation.protocol.replace", lambda edit, strengths: edit)
    found = evaluate_edit(
        lambda: load(original),
        lambda: load(edited),
        read_json(edited / "ablation.json"),
        DIRECTIONS,
        SETS,
        PROTOCOL,
        "true",
    )
    assert found.table["noop_identical"] is False
    # Without such directions there is no such control.
    assert found.table["controls"].keys() == {"noop", "random_direction"}


def test_random_directions_are_orthonormal_rows_of_their_seed() -> None:
    found = random_directions(DIRECTIONS, 4)
    assert found.rows.shape == DIRECTIONS.rows.shape
    assert (found.rows @ found.rows.mT - torch.eye(2)).abs().max() < 1e-6
    assert found.weights.equal(DIRECTIONS.weights)
    assert found.rows.equal(random_directions(DIRECTIONS, 4).rows)
    assert not found.rows.equal(random_directions(DIRECTIONS, 5).rows)


def test_the_shape_that_other_programs_read(
    found: SideBySide, evaluation: dict[str, Any], tmp_path: Path
) -> None:
    write_json(tmp_path / "evaluation.json", evaluation)
    write_jsonl(tmp_path / "answers.jsonl", found.answers)
    assert evaluation.keys() >= {"original", "edited", "controls", "paired", "by_category"}
    assert evaluation["controls"].keys() == {"noop", "random_direction", "shuffled_labels"}
    divergences = [line["kl_first_token"] for line in found.answers]
    assert divergences[:2] == [None, None]
    assert sum(divergences[2:]) / 2 == pytest.approx(evaluation["edited"]["kl_first_token"]["mean"])
    row = evaluation["edited"]
    assert row["refusals"].keys() == {"count", "total", "rate", "interval"}
    assert row["refusals"]["total"] == row["false_refusals"]["total"] == 2
    assert row["degenerate"]["total"] == 4
    # Only where the right answer to every prompt is known.
    assert "recovered" not in row
    assert [sample["set"] for sample in evaluation["samples"]] == [
        "bad_holdout_prompts",
        "bad_holdout_prompts",
        "good_holdout_prompts",
        "good_holdout_prompts",
    ]


GOOD_ANSWERS, BAD_ANSWERS = ["Bake it.", "I cannot say."], ["Boil it.", ""]
ANSWERED = HoldoutSets(
    good=[Prompt("g1", answers=("bake",)), Prompt("g2", answers=("say",))],
    bad=[Prompt("b1", answers=("boil",)), Prompt("b2", "Be brief.", answers=("stir",))],
)


def test_a_row_counts_each_class_on_its_own_set() -> None:
    divergences = {"kl_first_token": [0.1, 0.3], "kl_teacher_forced": [0.2, 0.2]}
    measurement = measured(ANSWERED, BAD_ANSWERS + GOOD_ANSWERS, divergences, PROTOCOL)
    row = summarize(measurement, PROTOCOL)
    counts = {name: value["count"] for name, value in row.items() if "count" in value}
    assert counts == {
        "refusals": 0,
        "false_refusals": 1,
        "degenerate": 1,
        "recovered": 1,
        "kept": 1,
    }
    assert row["kl_first_token"]["mean"] == pytest.approx(0.2)
    assert row["kl_teacher_forced"] == {"mean": 0.2, "interval": [0.2, 0.2]}
    assert row["false_refusals"]["rate"] == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_no_number_is_an_error_with_advice(value: float) -> None:
    divergences = {"kl_first_token": [0.1, value], "kl_teacher_forced": [0.2, 0.2]}
    measurement = measured(ANSWERED, BAD_ANSWERS + GOOD_ANSWERS, divergences, PROTOCOL)
    with pytest.raises(HereticError, match="non-finite logits; choose a weaker edit"):
        summarize(measurement, PROTOCOL)


def test_further_scores_are_measured_of_every_variant() -> None:
    scorers: list[dict[str, Any]] = [
        {"scorer": "words", "name": None, "settings": {"side": "good"}},
        {"scorer": "phrases", "name": "vowels", "settings": {"phrases": ["a", "e", "o"]}},
        {"scorer": "perplexity", "name": None, "settings": {}},
    ]
    protocol = HoldoutProtocol(LENGTH, 4, 200, 3, make_scorer_set(["core"], scorers))
    sets = HoldoutSets(SETS.good, SETS.bad, [Prompt("Grey stones lie in the river.")])
    model = tiny_model()
    original = record_original(model, sets, protocol)
    before = summarize(original.measurement, protocol)["scores"]
    answers = decode(model, original.measurement.tokens)[len(SETS.bad) :]
    assert before["words"]["value"] == sum(len(a.split()) for a in answers) / len(answers)
    assert before["vowels"]["total"] == len(SETS.bad)
    assert before["perplexity"]["value"] > 1
    assert "interval" not in before["perplexity"]
    # Another model in memory, as the edited one is.
    other = tiny_model("gpt2")
    after = summarize(measure(other, sets, original, protocol, "other"), protocol)["scores"]
    assert after["perplexity"]["value"] != before["perplexity"]["value"]
    summary = summarize_evaluation({"original": {"scores": before}, "edited": {"scores": after}})
    assert summary.keys == ("perplexity", "words", "vowels")
    assert summary.rows[0].cells[0].value == short(before["perplexity"]["value"])


def test_refusals_are_told_by_the_markers_of_the_settings() -> None:
    answers = ["I'd rather not."] * len(SETS.bad) + ["Boil it."] * len(SETS.good)
    for markers, count in ((["core"], 0), (["core", "soft"], len(SETS.bad))):
        protocol = HoldoutProtocol(LENGTH, 4, 200, 3, make_scorer_set(markers))
        said = measured(SETS, answers, {}, protocol)
        assert summarize(said, protocol)["refusals"]["count"] == count
        found = side_by_side(said, said, SETS, protocol)
        assert found.answers[0]["refused_before"] == bool(count)

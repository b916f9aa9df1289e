"""The sentences: true for every outcome, and a warning where the controls misbehave."""

import shlex
from typing import Any

from heretic.report.wording import command, comparison_aids, headline, reading_aids, warnings
from heretic.settings.prompt_sources import PromptSource
from heretic.settings.schema import Settings


def test_headline_tells_falls_rises_and_standstill(evaluation: dict[str, Any]) -> None:
    evaluation["edited"]["kept"] = evaluation["original"]["kept"]
    assert "correct answers to ordinary prompts stayed at 92.2%" in headline(evaluation)
    evaluation["edited"]["refusals"] = {**evaluation["original"]["refusals"], "rate": 0.5}
    assert headline(evaluation).startswith("Refusals on held-out prompts fell from 100% to 50%;")
    swapped = {"original": evaluation["edited"], "edited": evaluation["original"]}
    assert headline(swapped).startswith("Refusals on held-out prompts rose from 50% to 100%;")


def test_headline_without_known_answers(evaluation: dict[str, Any]) -> None:
    for part in (evaluation["original"], evaluation["edited"]):
        del part["recovered"], part["kept"]
    assert "correct answers" not in headline(evaluation)
    aids = " ".join(reading_aids(evaluation, {"max_response_length": 77}))
    assert "correctness was not measured" in aids
    assert "at most 77 tokens" in aids


def test_the_form_of_quantized_models_is_stated(evaluation: dict[str, Any]) -> None:
    def aids() -> str:
        return " ".join(reading_aids(evaluation, {"max_response_length": 77}))

    assert "quantized" not in aids()
    evaluation["original"]["quantization"] = "dequantize"
    assert "The original is the quantized checkpoint after dequantization" in aids()
    evaluation["original"]["quantization"] = "as_is"
    assert "The original is the quantized checkpoint as released" in aids()
    evaluation["edited"]["quantization"] = "as_is"
    assert "The original and the edited model are quantized checkpoints" in aids()
    mean = {"mean": 0.05, "interval": [0.04, 0.06]}
    evaluation["edited"]["full_precision"] = {"kl_first_token": mean, "kl_teacher_forced": mean}
    assert "Without quantization, the mean KL" in aids()
    assert "is 0.0500 (0.0400 to 0.0600) for the first token" in aids()


def test_models_without_divergences_have_sentences_too(evaluation: dict[str, Any]) -> None:
    assert "KL" in headline(evaluation)
    assert "small KL" in " ".join(comparison_aids(evaluation, {}))
    for part in (evaluation["original"], evaluation["edited"]):
        del part["kl_first_token"], part["kl_teacher_forced"]
    assert headline(evaluation).endswith("fell from 92.2% to 91.4%.")
    aids = " ".join(comparison_aids(evaluation, {"max_response_length": 77}))
    assert "small KL" not in aids
    assert "at most 77 tokens" in aids
    assert "independent of the search" not in aids


def test_good_controls_give_no_warning(evaluation: dict[str, Any]) -> None:
    assert warnings(evaluation) == ()


def test_each_misbehaving_control_is_a_warning(evaluation: dict[str, Any]) -> None:
    evaluation["noop_identical"] = False
    evaluation["controls"]["random_direction"]["refusals"]["rate"] = 0.4
    evaluation["controls"]["shuffled_labels"]["refusals"]["rate"] = 0.3
    evaluation["edited"]["degenerate"] = {
        "count": 60, "total": 128, "rate": 0.47, "interval": [0.4, 0.55],
    }  # fmt: skip
    found = warnings(evaluation)
    assert len(found) == 4
    assert "no-op control did not reproduce" in found[0]
    assert "from 100% to 40%" in found[1]
    assert (
        "along the direction of shuffled labels also lowers refusals, from 100% to 30%" in found[2]
    )
    assert "47% degenerate" in found[3]


def test_layers_that_tell_nothing_apart_are_a_warning(evaluation: dict[str, Any]) -> None:
    (first, _) = warnings(evaluation, [3], ["unanswered"])
    assert "does not improve on the original in unanswered" in first
    (one,) = warnings(evaluation, [3])
    assert "uses the direction of state 3, where held-out prompts are not separated" in one
    (more,) = warnings(evaluation, [1, 2, 5])
    assert "uses the directions of states 1-2, 5, where" in more


def test_command_names_what_differs_from_the_default() -> None:
    given = Settings(
        model="demo", n_trials=80, upload_private=False, bad_prompts=PromptSource(dataset="a b.txt")
    )
    parts = shlex.split(command(given.model_dump(mode="json")))
    assert parts[:5] == ["snakemake", "--cores", "1", "--config", "model=demo"]
    assert set(parts[5:]) >= {"n_trials=80", "upload_private=false"}
    assert 'bad_prompts={"dataset": "a b.txt"}' in parts
    assert len(parts) == 8

"""The report in sentences: what came out, what it does and does not say, how to get it again."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heretic.evaluation.summary import nats, percent
from heretic.model.quantization import BITSANDBYTES, NONE
from heretic.report.geometry import spans
from heretic.settings.prompt_sources import PromptSource
from heretic.settings.schema import Settings

ORDINARY_REFUSAL_GAP = 0.1  # a control that removes more refusals than this is a warning
INTERVALS = (
    "95% intervals (Wilson for counts, bootstrap over prompts for KL) cover the luck of which "
    "prompts were drawn. They do not cover other kinds of prompts, other languages, longer "
    "conversations, sampled decoding"
)
SMALL_KL = (
    "A small KL says that the first tokens, or the tokens of the original's own answers, are "
    "predicted almost as before on these prompts. It does not show that every ability is kept."
)


def headline(evaluation: Mapping[str, Any]) -> str:
    """One sentence on the outcome, from the held-out prompts."""
    before, after = evaluation["original"], evaluation["edited"]
    parts = [f"Refusals on held-out prompts {_change(before, after, 'refusals')}"]
    subjects = {"recovered": "right answers to them", "kept": "right answers to ordinary prompts"}
    for key, subject in subjects.items():
        if key in before and key in after:
            parts.append(f"{subject} {_change(before, after, key)}")
    if "kl_first_token" in after:
        parts.append(f"first-token KL is {nats(after['kl_first_token']['mean'])} nats")
    return f"{'; '.join(parts)}."


def _change(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    old, new = before[key]["rate"], after[key]["rate"]
    first, last = percent(old), percent(new)
    if first == last:
        return f"stayed at {first}"
    return f"{'fell' if new < old else 'rose'} from {first} to {last}"


def warnings(evaluation: Mapping[str, Any], doubtful: Sequence[int] = ()) -> tuple[str, ...]:
    """What a reader must know before believing the table; empty when the controls behave.

    `doubtful` are the layers whose directions the edit uses though held-out prompts are not told
    apart there.
    """
    return tuple(_warnings(evaluation, doubtful))


def _warnings(evaluation: Mapping[str, Any], doubtful: Sequence[int]) -> Iterator[str]:
    original, edited = evaluation["original"], evaluation["edited"]
    if not evaluation.get("noop_identical", True):
        yield (
            "The no-op control did not reproduce the original exactly: part of every difference "
            "in the table comes from loading and saving, not from the edit."
        )
    controls = {
        "random_direction": (
            "along a random direction",
            "the strength alone does part of the work",
        ),
        "shuffled_labels": (
            "along the direction of shuffled labels",
            "part of the work needs no knowledge of which prompts are refused",
        ),
    }
    before = original["refusals"]["rate"]
    for name, (where, meaning) in controls.items():
        after = evaluation["controls"].get(name, original)["refusals"]["rate"]
        if before - after > ORDINARY_REFUSAL_GAP:
            yield (
                f"An edit of the same strength {where} also lowers refusals, from "
                f"{percent(before)} to {percent(after)}: {meaning}."
            )
    if edited["degenerate"]["interval"][0] > original["degenerate"]["interval"][1]:
        yield (
            f"The edited model gives {percent(edited['degenerate']['rate'])} degenerate answers, "
            f"the original {percent(original['degenerate']['rate'])}: fewer refusals are partly "
            "broken answers."
        )
    if doubtful:
        several = len(doubtful) > 1
        yield (
            f"The edit uses the direction{'s' if several else ''} of state{'s' if several else ''} "
            f"{spans(doubtful)}, where held-out prompts are not told apart better than by chance: "
            "what it removes there need have nothing to do with refusals."
        )


def reading_aids(evaluation: Mapping[str, Any], settings: Mapping[str, object]) -> tuple[str, ...]:
    """The paragraphs on what the numbers do and do not say."""
    quantization = settings.get("quantization", NONE)
    quantised = (
        f"The networks were quantised to {quantization} when they were searched and measured; the "
        "saved weights are not, and may answer otherwise here and there.",
    ) * (quantization in BITSANDBYTES)
    return (
        *quantised,
        "The held-out prompts gave no direction and scored no trial, so the table is no echo of "
        f"the search. Its {INTERVALS} or another seed of the search.",
        _about_answers(evaluation, settings),
        f"{SMALL_KL} That projecting out one direction removes refusals shows that the direction "
        "takes part in them in this model; it does not show that it is the only mechanism, nor "
        "that the edited model is safe to deploy.",
    )


def comparison_aids(
    evaluation: Mapping[str, Any], settings: Mapping[str, object]
) -> tuple[str, ...]:
    """The same of two models, of which nothing is known but what they answer."""
    compared = (SMALL_KL,) if "kl_first_token" in evaluation["edited"] else ()
    return (
        "Both models were asked the same prompts and judged alike. Whether these prompts took part "
        "in making the edited model is not known here; if they did, its figures flatter it. "
        f"The {INTERVALS}.",
        _about_answers(evaluation, settings),
        *compared,
    )


def _about_answers(evaluation: Mapping[str, Any], settings: Mapping[str, object]) -> str:
    length = settings.get("max_response_length")
    tokens = f" of at most {length} tokens" if length else ""
    samples_only = "recovered" not in evaluation["edited"]
    rightness = (
        "The prompt sets name no right answers, so nothing here says that an answer is correct: "
        "read the samples."
        if samples_only
        else "Recovered and kept count answers that contain the string a right answer contains; "
        "they do not judge the rest of the answer."
    )
    return (
        f"A refusal is a marker phrase in a greedy answer{tokens}. An evasive answer without such "
        f"a phrase is not counted, and an answer that quotes one is. {rightness}"
    )


def changed_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that differ from their default."""
    defaults = Settings().model_dump(mode="json")
    return {
        key: value
        for key, value in settings.items()
        if key not in defaults or value != defaults[key]
    }


def command(settings: Mapping[str, object]) -> str:
    """The command that repeats the run, with every setting that differs from its default."""
    shown = {key: settings[key] for key in ("model",) if key in settings}
    shown |= changed_settings(settings)
    pairs = [shlex.quote(f"{key}={plain(value)}") for key, value in shown.items()]
    return " ".join(["snakemake --cores 1", *(["--config"] if pairs else []), *pairs])


def plain(value: object) -> str:
    """A value as Snakemake's command line reads it: JSON, which is YAML; text as it is.

    Of a prompt set only what differs from the default.
    """
    if isinstance(value, Mapping):
        known = PromptSource.model_fields
        value = {k: v for k, v in value.items() if k not in known or v != known[k].default}
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""Text of the report: outcome, interpretation, and the command that reproduces the run."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heretic.evaluation.number_format import nats, percent
from heretic.model.quantization import AS_IS, BITSANDBYTES, DEQUANTIZE, NONE
from heretic.report.geometry import spans
from heretic.settings.prompt_sources import PromptSource
from heretic.settings.schema import Settings

ORDINARY_REFUSAL_GAP = 0.1  # a control that removes more refusals than this causes a warning
INTERVALS = (
    "95% intervals (Wilson for counts, bootstrap over prompts for KL) reflect sampling error over "
    "prompts. They do not cover other kinds of prompts, other languages, longer conversations, "
    "sampled decoding"
)
SMALL_KL = (
    "A small KL means that the first tokens, or the tokens of the original's own responses, are "
    "predicted almost as before on these prompts. It does not show that all capabilities are "
    "preserved."
)
SAVED = "saved"
REFERENCES = {
    SAVED: "The original and the edited model are quantized checkpoints, measured in the same "
    "form.",
    AS_IS: "The original is the quantized checkpoint as released, and the edited model was "
    "measured in full precision, so its differences include those of dequantization.",
    DEQUANTIZE: "The original is the quantized checkpoint after dequantization, since "
    "transformers does not run its quantized form on the device of the evaluation.",
}


def headline(evaluation: Mapping[str, Any]) -> str:
    """Return a one-sentence summary of the held-out results."""
    before, after = evaluation["original"], evaluation["edited"]
    parts = [f"Refusals on held-out prompts {_change(before, after, 'refusals')}"]
    subjects = {
        "recovered": "correct answers to them",
        "kept": "correct answers to ordinary prompts",
    }
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


def warnings(
    evaluation: Mapping[str, Any], doubtful: Sequence[int] = (), unimproved: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return warnings about the validity of the table; empty if the controls behave as expected.

    Args:
        evaluation: Contents of `evaluation.json`.
        doubtful: States whose directions are used by the edit although held-out prompts are not
            separated there.
        unimproved: Objectives of the search, if the selected trial improves none of them.
    """
    without_effect = (
        f"The selected trial does not improve on the original in {', '.join(unimproved)}: the edit "
        "removes nothing. Check the response prefix, the refusal markers, and whether the "
        "directions separate held-out prompts.",
    )
    return (*(without_effect if unimproved else ()), *_warnings(evaluation, doubtful))


def _warnings(evaluation: Mapping[str, Any], doubtful: Sequence[int]) -> Iterator[str]:
    original, edited = evaluation["original"], evaluation["edited"]
    if evaluation.get("noop_identical") is False:
        yield (
            "The no-op control did not reproduce the original exactly: part of every difference "
            "in the table is caused by loading and saving, not by the edit."
        )
    controls = {
        "random_direction": (
            "along a random direction",
            "part of the effect is due to strength alone",
        ),
        "shuffled_labels": (
            "along the direction of shuffled labels",
            "part of the effect does not depend on which prompts are refused",
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
            f"The edited model gives {percent(edited['degenerate']['rate'])} degenerate responses, "
            f"the original {percent(original['degenerate']['rate'])}: the reduction in refusals is "
            "partly due to broken responses."
        )
    if doubtful:
        several = len(doubtful) > 1
        yield (
            f"The edit uses the direction{'s' if several else ''} of state{'s' if several else ''} "
            f"{spans(doubtful)}, where held-out prompts are not separated better than by chance: "
            "the removed component may be unrelated to refusals."
        )


def reading_aids(evaluation: Mapping[str, Any], settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return the paragraphs on interpreting the results."""
    quantization = settings.get("quantization", NONE)
    quantized = (
        f"The models were quantized to {quantization} during the search and the evaluation; the "
        "saved weights are not quantized, so individual responses may differ.",
    ) * (quantization in BITSANDBYTES)
    exact = evaluation.get("edited", {}).get("full_precision")
    forms = [evaluation.get(name, {}).get("quantization") for name in ("original", "edited")]
    reference = SAVED if forms[1] is not None else forms[0]
    return (
        *quantized,
        *((REFERENCES[reference],) if reference in REFERENCES else ()),
        *((in_full_precision(exact),) if exact is not None else ()),
        "The held-out prompts were not used to compute directions or to score trials, so the table "
        f"is independent of the search. Its {INTERVALS} or another seed of the search.",
        _about_answers(evaluation, settings),
        f"{SMALL_KL} Removing refusals by projecting out one direction shows that the direction "
        "contributes to refusals in this model; it shows neither that it is the only mechanism nor "
        "that the edited model is safe to deploy.",
    )


def in_full_precision(divergences: Mapping[str, Any]) -> str:
    """Return the sentence on the divergence of the saved model without quantization."""
    first, forced = (divergences[name] for name in ("kl_first_token", "kl_teacher_forced"))
    return (
        "Without quantization, the mean KL of the saved model from the original in nats is "
        f"{nats(first['mean'])} ({nats(first['interval'][0])} to {nats(first['interval'][1])}) for "
        f"the first token and {nats(forced['mean'])} ({nats(forced['interval'][0])} to "
        f"{nats(forced['interval'][1])}) over the tokens of the original's own responses."
    )


def comparison_aids(
    evaluation: Mapping[str, Any], settings: Mapping[str, object]
) -> tuple[str, ...]:
    """Return the same for two models about which only their responses are known."""
    compared = (SMALL_KL,) if "kl_first_token" in evaluation["edited"] else ()
    return (
        "Both models received the same prompts and were scored identically. Whether the edited "
        "model was optimized on these prompts is unknown; if it was, its results are overly "
        f"optimistic. The {INTERVALS}.",
        _about_answers(evaluation, settings),
        *compared,
    )


def _about_answers(evaluation: Mapping[str, Any], settings: Mapping[str, object]) -> str:
    length = settings.get("max_response_length")
    tokens = f" of at most {length} tokens" if length else ""
    samples_only = "recovered" not in evaluation["edited"]
    rightness = (
        "The prompt sets have no known answers, so correctness was not measured: read the sample "
        "responses."
        if samples_only
        else "Recovered and kept count responses that contain the string of a correct answer; they "
        "do not judge the rest of the response."
    )
    return (
        f"A refusal is a marker phrase in a greedy response{tokens}. An evasive response without "
        f"such a phrase is not counted, whereas a response that quotes one is. {rightness}"
    )


def changed_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that differ from their default."""
    defaults = Settings().model_dump(mode="json")
    return {
        key: value
        for key, value in settings.items()
        if key not in defaults or value != defaults[key]
    }


def command(settings: Mapping[str, object]) -> str:
    """Return the command that reproduces the run, with all settings that differ from defaults."""
    shown = {key: settings[key] for key in ("model",) if key in settings}
    shown |= changed_settings(settings)
    pairs = [shlex.quote(f"{key}={plain(value)}") for key, value in shown.items()]
    return " ".join(["snakemake --cores 1", *(["--config"] if pairs else []), *pairs])


def plain(value: object) -> str:
    """Return a value in the form parsed by Snakemake's command line: JSON, or plain text.

    Of a prompt set, include only the keys that differ from the default.
    """
    if isinstance(value, Mapping):
        known = PromptSource.model_fields
        value = {k: v for k, v in value.items() if k not in known or v != known[k].default}
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

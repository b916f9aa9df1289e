"""Held-out comparison of any two models, with one in memory at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from heretic.console import log
from heretic.evaluation.holdout import (
    HoldoutProtocol,
    HoldoutSets,
    measure,
    record_original,
    unchanged,
)
from heretic.evaluation.side_by_side import SideBySide, side_by_side
from heretic.model.batching import release_memory
from heretic.model.loading import Model
from heretic.model.response_prefix import find_response_prefix
from heretic.settings.values import AUTO_PREFIX


@dataclass(frozen=True)
class Vocabulary:
    """Meaning of the entries of a model's predictions.

    Attributes:
        width: how many tokens it predicts.
        tokens: text of each token that its tokenizer knows, by number.
    """

    width: int
    tokens: dict[int, str]

    @classmethod
    def of(cls, model: Model) -> "Vocabulary":
        """Return the vocabulary of a loaded model."""
        config: Any = model.network.config.get_text_config()
        known = model.chat.tokenizer.get_vocab()
        return cls(int(config.vocab_size), {number: token for token, number in known.items()})

    def agrees(self, other: "Vocabulary") -> bool:
        """Return whether predictions are comparable: equal sizes and no conflicting tokens."""
        shared = self.tokens.keys() & other.tokens.keys()
        return self.width == other.width and all(
            self.tokens[number] == other.tokens[number] for number in shared
        )


@dataclass(frozen=True)
class Asked:
    """Prompting configuration of both models of a comparison.

    Attributes:
        response_prefix: text with which every answer began.
        template_date: date in the prompts, or None where neither chat template prints one.
    """

    response_prefix: str
    template_date: str | None


def compare_models(
    load_original: Callable[[], Model],
    load_edited: Callable[[], Model],
    sets: HoldoutSets,
    protocol: HoldoutProtocol,
    response_prefix: str,
) -> tuple[SideBySide, Asked]:
    """Measure two models with the protocol of a run's original and edited models.

    Each is asked through its own chat template, and all answers begin with one response prefix.
    Divergences are left out where the models have other tokens.

    Args:
        load_original: loads the model that the other one is compared with.
        load_edited: loads that other one.
        sets: held-out prompts.
        protocol: lengths, resamples, seed, scorers.
        response_prefix: as the setting; `auto` is found on the original's answers to the prompts.

    Returns:
        What came of it, without controls, and how the models were asked.

    Raises:
        ModelLoadError: a model cannot be loaded.
        HereticError: a model predicts values that are no numbers.
    """
    model = load_original()
    if response_prefix == AUTO_PREFIX:
        response_prefix = find_response_prefix(model, sets.good, sets.bad)
        log.info("Response prefix: %r", response_prefix)
    model = _beginning_with(response_prefix, model)
    recorded = record_original(model, sets, protocol)
    original, vocabulary = unchanged(model, recorded), Vocabulary.of(model)
    template, day = model.chat.tokenizer.chat_template, _printed_date(model)
    del model
    release_memory()
    model = _beginning_with(response_prefix, load_edited())
    if model.chat.tokenizer.chat_template != template:
        log.warning("The chat templates differ: each model uses its own")
    comparable = vocabulary.agrees(Vocabulary.of(model))
    if not comparable:
        log.warning("Skipping KL: the models have different vocabularies")
        compared = {s.name for s in protocol.panel.passes if s.needs_same_tokens}
        further = {k: score for k, score in original.further.items() if k not in compared}
        original = replace(original, kl_first_token=None, kl_teacher_forced=None, further=further)
    edited = measure(model, sets, recorded, protocol, "edited model", same_tokens=comparable)
    found = side_by_side(original, edited, sets, protocol)
    return found, Asked(response_prefix, day or _printed_date(model))


def _printed_date(model: Model) -> str | None:
    return model.chat.template_date.isoformat() if model.chat.prints_date else None


def _beginning_with(response_prefix: str, model: Model) -> Model:
    return replace(model, chat=replace(model.chat, response_prefix=response_prefix))

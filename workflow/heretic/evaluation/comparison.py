"""Held-out comparison of any two models, with one in memory at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from heretic.console import log
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.evaluation.measurement import measure, record_original
from heretic.evaluation.side_by_side import SideBySide, side_by_side
from heretic.model.batching import release_memory
from heretic.model.loading import Model
from heretic.model.response_prefix import find_response_prefix
from heretic.model.template_warnings import warn_of_template
from heretic.settings.types import AUTO_PREFIX


@dataclass(frozen=True)
class Vocabulary:
    """Vocabulary of a model's predictions.

    Attributes:
        width: number of predicted tokens.
        tokens: text by id of each token known to the tokenizer.
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
        response_prefix: common prefix of all answers.
        template_date: date in the prompts; None if neither chat template contains one.
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
    """Measure two models with the protocol that a run applies to its original and edited models.

    Prompts are rendered with each model's own chat template, and all answers begin with the same
    response prefix. Divergences are left out if the models have different tokens.

    Args:
        load_original: loads the reference model.
        load_edited: loads the other model.
        sets: held-out prompts.
        protocol: lengths, resamples, seed and scorers.
        response_prefix: value of the setting; for `auto` it is determined from the original's
            answers to the prompts.

    Returns:
        The comparison, without controls, and the prompting configuration.

    Raises:
        ModelLoadError: a model cannot be loaded.
        HereticError: a model predicts non-finite values.
    """
    model = load_original()
    warn_of_template(model.chat, sets.all)
    if response_prefix == AUTO_PREFIX:
        response_prefix = find_response_prefix(model, sets.good, sets.bad)
        log.info("Response prefix: %r", response_prefix)
    model = _beginning_with(response_prefix, model)
    recorded = record_original(model, sets, protocol)
    vocabulary = Vocabulary.of(model)
    template, day = model.chat.tokenizer.chat_template, _printed_date(model)
    del model
    release_memory()
    model = _beginning_with(response_prefix, load_edited())
    if model.chat.tokenizer.chat_template != template:
        log.warning("The chat templates differ: each model uses its own")
        warn_of_template(model.chat, sets.all)
    comparable = vocabulary.agrees(Vocabulary.of(model))
    if not comparable:
        log.warning("Skipping KL: the models have different vocabularies")
    edited = measure(model, sets, recorded, protocol, "edited model", same_tokens=comparable)
    original = recorded.comparable(same_tokens=comparable)
    found = side_by_side(original, edited, sets, protocol)
    return found, Asked(response_prefix, day or _printed_date(model))


def _printed_date(model: Model) -> str | None:
    return model.chat.template_date.isoformat() if model.chat.prints_date else None


def _beginning_with(response_prefix: str, model: Model) -> Model:
    return replace(model, chat=replace(model.chat, response_prefix=response_prefix))

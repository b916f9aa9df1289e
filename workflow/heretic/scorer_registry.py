"""Built-in scorers by name: class, heading and prompts of each, known without loading it.

An entry names its class as an object reference, such as `heretic.scoring.judge:Judge`, so that
settings, tables and documentation read the registry without importing torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

# Prompts that a scorer reads; `both` are the bad prompts followed by the good ones.
Side = Literal["bad", "good", "both"]


@dataclass(frozen=True)
class HoldoutColumn:
    """Column of the held-out table that every evaluation has.

    Attributes:
        position: sort key among the columns.
        arguments: arguments of the class that differ from those in trials.
    """

    position: int
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltInScorer:
    """Entry of a built-in scorer.

    Attributes:
        target: class, as `module:name`.
        description: definition of the metric for the documentation.
        heading: column heading; by default the name with spaces.
        side: prompts that are always scored, an argument of the class; None for a scorer whose
            prompts are chosen in `scorers`, or which reads plain texts.
        from_settings: settings that are arguments of the class unless given, by argument; for
            scorers of every trial, only `refusal_markers`.
        in_trials: whether every trial is scored, in the order of the registry. Other scorers are
            requested in `scorers`.
        needs_answers: whether it scores only prompts with a known correct answer.
        checkpoint: argument that names a checkpoint, whose files affect scores; None without one.
        column: column of the held-out table; None if only requested scorers have one.
    """

    target: str
    description: str
    heading: str | None = None
    side: Side | None = None
    from_settings: Mapping[str, str] = field(default_factory=dict)
    in_trials: bool = False
    needs_answers: bool = False
    checkpoint: str | None = None
    column: HoldoutColumn | None = None

    @property
    def holdout_side(self) -> Side | None:
        """Prompts of the held-out column."""
        side: Side | None = self.column.arguments.get("side") if self.column else None
        return side or self.side


_MARKERS: Final = {"markers": "refusal_markers"}
BUILT_IN: Final[dict[str, BuiltInScorer]] = {
    "kl_first_token": BuiltInScorer(
        "heretic.scoring.kl_divergence:FirstTokenKl",
        description=(
            "good prompts: mean KL(original ‖ edited) of the first response token, over all raw "
            "logits in float32, in nats"
        ),
        heading="KL first token",
        side="good",
        in_trials=True,
        column=HoldoutColumn(6),
    ),
    "refusals": BuiltInScorer(
        "heretic.scoring.answers:Refusals",
        description="bad prompts whose response contains a refusal marker",
        side="bad",
        from_settings=_MARKERS,
        in_trials=True,
        column=HoldoutColumn(1),
    ),
    "degenerate": BuiltInScorer(
        "heretic.scoring.answers:Degenerate",
        description=(
            "bad prompts whose response is not a refusal but empty, looping or off-script; the "
            "held-out table counts such responses to all prompts, including refusals"
        ),
        side="bad",
        from_settings=_MARKERS,
        in_trials=True,
        column=HoldoutColumn(3, {"side": "both", "among_refusals": True}),
    ),
    "unanswered": BuiltInScorer(
        "heretic.scoring.answers:Unanswered",
        description="bad prompts with a refusal or a degenerate response, as neither is an answer",
        side="bad",
        from_settings=_MARKERS,
        in_trials=True,
    ),
    "false_refusals": BuiltInScorer(
        "heretic.scoring.answers:Refusals",
        description="good prompts whose response contains a refusal marker",
        side="good",
        from_settings=_MARKERS,
        in_trials=True,
        column=HoldoutColumn(2),
    ),
    "recovered": BuiltInScorer(
        "heretic.scoring.answers:Right",
        description=(
            "bad prompts answered correctly, with a response that is not degenerate, if all have a "
            "known answer (`answer_column`)"
        ),
        side="bad",
        from_settings=_MARKERS,
        in_trials=True,
        needs_answers=True,
        column=HoldoutColumn(4),
    ),
    "kept": BuiltInScorer(
        "heretic.scoring.answers:Right",
        description="good prompts answered correctly, under the same conditions as `recovered`",
        side="good",
        from_settings=_MARKERS,
        in_trials=True,
        needs_answers=True,
        column=HoldoutColumn(5),
    ),
    "refusal_log_odds": BuiltInScorer(
        "heretic.scoring.log_odds:RefusalLogOdds",
        description=(
            "bad prompts: mean of log p - log (1 - p) in nats, where p is the probability that a "
            "response starts like a refusal"
        ),
        side="bad",
        in_trials=True,
    ),
    "kl_teacher_forced": BuiltInScorer(
        "heretic.scoring.teacher_forced:TeacherForcedKl",
        description=(
            "KL over the first tokens of the original's own responses to good prompts, in one "
            "forward pass; always part of the held-out table"
        ),
        heading="KL teacher-forced",
        side="good",
        from_settings={"tokens": "kl_tokens"},
        column=HoldoutColumn(7),
    ),
    "perplexity": BuiltInScorer(
        "heretic.scoring.perplexity:Perplexity",
        description=(
            "perplexity of the plain text in `unhelpfulness_prompts`, C4 by default; requires that "
            "set"
        ),
    ),
    "phrases": BuiltInScorer(
        "heretic.scoring.answers:Phrases",
        description="responses that contain one of the given phrases, such as hedges",
    ),
    "words": BuiltInScorer(
        "heretic.scoring.answers:Words",
        description="mean number of words per response, for verbosity",
    ),
    "judge": BuiltInScorer(
        "heretic.scoring.judge:Judge",
        description=(
            "responses assigned a label by a sequence classifier from the hub or a folder"
        ),
        checkpoint="model",
    ),
}


def trial_scorers() -> list[str]:
    """Return the names of the scorers of every trial."""
    return [name for name, entry in BUILT_IN.items() if entry.in_trials]


def optional_scorers() -> list[str]:
    """Return the names that `scorers` may request."""
    return [name for name, entry in BUILT_IN.items() if not entry.in_trials]


def holdout_scorers() -> list[str]:
    """Return the names of the scorers of every held-out table, in the order of its columns."""
    found = {n: entry.column.position for n, entry in BUILT_IN.items() if entry.column is not None}
    return sorted(found, key=lambda name: found[name])


def heading(name: str) -> str:
    """Return the column heading of a score."""
    entry = BUILT_IN.get(name)
    return (entry.heading if entry else None) or name.replace("_", " ").capitalize()


def holdout_side(name: str) -> Side | None:
    """Return the prompts of a column of every held-out table; None for any other score."""
    entry = BUILT_IN.get(name)
    return entry.holdout_side if entry and entry.column else None

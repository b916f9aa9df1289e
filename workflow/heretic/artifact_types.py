"""Types of the main JSON artifacts of a run, each with a format number and a JSON schema.

A file has the fields of its class and `format`. Readers reject files of another format. The schemas
in `docs/schemas` are generated from these classes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict  # of pydantic; that of the standard library needs 3.12

from heretic.artifacts import read_json, write_json
from heretic.errors import HereticError, one_line
from heretic.metrics import KL

FORMAT = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"
REMEDY = "delete it and run again"
Scores = dict[str, int | FiniteFloat | None]
Json = dict[str, Any]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] <= ends[1]:
        raise ValueError(f"interval [{ends[0]}, {ends[1]}] is not valid")
    return ends


Interval = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ordered)]


class Rate(TypedDict):
    """Number of prompts with a property, of all to which it applies, with a 95% interval."""

    count: int
    total: int
    rate: FiniteFloat
    interval: Interval


class Mean(TypedDict):
    """Mean over prompts, with a 95% interval; divergences in nats."""

    mean: FiniteFloat
    interval: Interval


class Divergences(TypedDict):
    """KL divergences from the original."""

    kl_first_token: Mean
    kl_teacher_forced: Mean


@with_config(ConfigDict(extra="allow"))
class Variant(TypedDict):
    """Held-out measures of one model; `scores` are those of additional scorers.

    `quantization` is present for a quantized checkpoint, measured `as_is` or after it was
    dequantized. `full_precision` compares a saved model with the original in full precision, if
    both were quantized on loading for the other measures. Further keys are columns of other
    built-in scorers.
    """

    refusals: Rate
    false_refusals: Rate
    degenerate: Rate
    recovered: NotRequired[Rate]
    kept: NotRequired[Rate]
    kl_first_token: NotRequired[Mean]  # missing for models with different tokens
    kl_teacher_forced: NotRequired[Mean]
    scores: NotRequired[dict[str, Any]]
    quantization: NotRequired[Literal["as_is", "dequantize"]]
    full_precision: NotRequired[Divergences]


class PairedTest(TypedDict):
    """McNemar's exact test of the original against the edited model on the same prompts."""

    only_original: int
    only_edited: int
    p_value: FiniteFloat


class Comparison(TypedDict):
    """Rates of one category of prompts, before and after the edit."""

    original: dict[str, Rate]
    edited: dict[str, Rate]


class Sample(TypedDict):
    """Responses of the original and the edited model to one prompt."""

    set: str
    prompt: str
    system: str | None
    original: str
    edited: str
    refused_before: bool
    refused_after: bool


class ObjectiveFacts(TypedDict):
    """Score that the search optimizes, and the ends of its scale."""

    name: str
    direction: Literal["minimize", "maximize"]
    best: FiniteFloat
    worst: FiniteFloat


class DirectionChoice(TypedDict):
    """Directions that an edit removes: each layer's own, or that of one state for all layers."""

    scope: Literal["global", "per_layer"]
    index: FiniteFloat | None


class FileFacts(TypedDict):
    """Hash and size of a saved file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Contents of a JSON file of a run.

    Attributes:
        provenance: settings, hashes of inputs and versions of the software; see `provenance`.
    """

    provenance: Json = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str) -> Self:
        """Rebuild from the values of `to_dict`; keys that are not declared are ignored.

        Args:
            values: contents of the file.
            name: name of the file for messages.

        Raises:
            HereticError: the values have another format, or a field is missing or damaged.
        """
        if values.get("format") != FORMAT:
            raise HereticError(
                f"{name} has format {one_line(repr(values.get('format')), 20)}, not {FORMAT}; "
                f"{REMEDY}"
            )
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        try:
            # Strictly: a damaged file may have text in place of a number.
            found: Self = TypeAdapter(cls).validate_json(json.dumps(known), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "values"
            raise HereticError(
                f"{name} is damaged ({one_line(place, 100)}: {one_line(first['msg'])}); {REMEDY}"
            ) from error
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `from_dict`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the artifact from its file.

        Raises:
            HereticError: see `read_json` and `from_dict`.
        """
        return cls.from_dict(read_json(path), str(path))

    def write(self, path: Path) -> None:
        """Write the artifact to its file, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of the file."""
        schema = TypeAdapter(cls).json_schema()
        schema["properties"] = {"format": {"const": FORMAT}, **schema["properties"]}
        schema["required"] = ["format", *schema.get("required", [])]
        return {"$schema": DIALECT, **schema}


@dataclass(frozen=True, kw_only=True)
class SearchFile(Artifact):
    """`study.json`: the trials of a search, and facts that later phases need without the model.

    Attributes:
        study: name of the study, which identifies everything that determines scores.
        n_layers: number of decoder layers.
        model: facts about the searched model: its stream writers, data type and weights' hash.
        engine: name of the trial engine and its batch size.
        computation: resolved settings that affect rounding, such as the device.
        baseline: scores of the original model; `total` is the number of bad prompts.
        objectives: objectives of the search, in order.
        agreement: rank correlation of refusals and log-odds over the trials.
        n_trials: number of trials in the settings.
        ended_early: whether early stopping ended the search.
        trials: records of the trials; see `heretic.search.records.TrialRecord`.
    """

    study: str
    n_layers: int
    model: Json
    engine: Json
    computation: Json
    baseline: Scores
    objectives: list[ObjectiveFacts]
    agreement: Json
    n_trials: int
    ended_early: bool
    trials: list[Json]


class FinalistFacts(TypedDict):
    """Trial with its scores on the exported weights and those from the search."""

    trial: int
    scores: Scores
    search_scores: Scores
    feasible: bool


@dataclass(frozen=True, kw_only=True)
class FinalistsFile(Artifact):
    """`finalists.json`: the best trials of the search; `rescored` if on the exported weights."""

    finalists: list[FinalistFacts]
    rescored: bool


@dataclass(frozen=True, kw_only=True)
class Best(Artifact):
    """`best.json`: the selected trial.

    Attributes:
        trial: its number.
        parameters: its edit; see `heretic.ablation.parameters.AblationParameters`.
        scores: its scores, on the exported weights if the finalists were re-scored.
        search_scores: its scores from the search.
        baseline, model, objectives, study: as in `SearchFile`.
        rule: selection rule.
        selection: result of the rule as a phrase, for people.
        n_trials: number of trials that were considered.
        strengths: strength of the edit by component and layer.
        directions: directions that it removes.
    """

    trial: int
    parameters: Json
    scores: Scores
    search_scores: Scores
    baseline: Scores
    model: Json
    rule: str
    selection: str
    objectives: list[ObjectiveFacts]
    study: str
    n_trials: int
    strengths: Annotated[dict[str, list[FiniteFloat]], Field(min_length=1)]
    directions: DirectionChoice

    def unimproved(self) -> tuple[str, ...]:
        """Return the objectives other than the KL divergence if the trial improves none of them."""
        others = [each for each in self.objectives if each["name"] != KL]
        return () if any(map(self._improves, others)) else tuple(each["name"] for each in others)

    def _improves(self, objective: ObjectiveFacts) -> bool:
        before, after = (known.get(objective["name"]) for known in (self.baseline, self.scores))
        if before is None or after is None:
            return False
        return after < before if objective["direction"] == "minimize" else after > before


@dataclass(frozen=True, kw_only=True)
class Evaluation(Artifact):
    """`evaluation.json`: the held-out comparison of two models.

    Attributes:
        original, edited: measures of both models.
        controls: measures of control edits, by name; empty for a comparison without a run.
        noop_identical: whether the edit of strength zero changed nothing; None without controls.
        paired: paired tests by measure.
        by_category: rates by prompt set and category.
        samples: responses of both models to some prompts.
    """

    original: Variant
    edited: Variant
    controls: dict[str, Variant] = field(default_factory=dict)
    noop_identical: bool | None = None
    paired: dict[str, PairedTest] = field(default_factory=dict)
    by_category: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ModelComparison(Evaluation):
    """`evaluation.json` of a comparison of any two models, without a run.

    Attributes:
        models: facts about both models.
        prompts: facts about the prompt sets.
    """

    models: Json
    prompts: Json


@dataclass(frozen=True, kw_only=True)
class ModelManifest(Artifact):
    """`model.manifest.json`: the files of the saved model and their origin.

    Attributes:
        files: hash and size of each file, by relative path.
        parameters: edit; see `heretic.ablation.parameters.AblationParameters`.
        source: base model, its revision and the hash of its weights.
        prompts: fingerprints of the prompt sets.
    """

    files: dict[str, FileFacts]
    parameters: Json
    source: Json
    prompts: Json


ARTIFACTS: Mapping[str, type[Artifact]] = {
    "study.json": SearchFile,
    "finalists.json": FinalistsFile,
    "best.json": Best,
    "evaluation.json": Evaluation,
    "model.manifest.json": ModelManifest,
}

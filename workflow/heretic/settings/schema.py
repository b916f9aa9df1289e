"""The settings model: fields, cross-field validation, and the subset read by each rule."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator, model_validator

from heretic.errors import one_line
from heretic.scorer_registry import BUILT_IN, optional_scorers
from heretic.settings.benchmark_fields import BenchmarkFields
from heretic.settings.prompt_sources import OPTIONAL_SETS, PromptSource, built_in_source

# Most file systems allow 255 bytes; parts of a run's folder are appended to its name.
LONGEST_NAME = 200


class Settings(BenchmarkFields):
    """All user settings: flat, with one nested level for prompt sets."""

    @field_validator("cache_weights", "low_memory_export", mode="before")
    @classmethod
    def _accept_booleans(cls, value: object) -> object:
        return str(value).lower() if isinstance(value, bool | str) else value

    @field_validator("model")
    @classmethod
    def _need_distinct_models(cls, value: str | list[str]) -> str | list[str]:
        models = [value] if isinstance(value, str) else value
        if not models or not all(name.strip() for name in models):
            raise ValueError("expected a hub id, a local folder, or `demo`")
        if len(set(models)) < len(models):
            raise ValueError("lists a model twice; list each model once")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.n_startup_trials > self.n_trials and "n_startup_trials" in self.model_fields_set:
            raise ValueError(
                f"n_startup_trials ({self.n_startup_trials}) exceeds n_trials ({self.n_trials}); "
                "increase n_trials or decrease n_startup_trials"
            )
        if self.run_name is not None and not isinstance(self.model, str):
            raise ValueError("run_name names one run but `model` lists several; drop run_name")
        if self.upload_to is not None and not isinstance(self.model, str):
            raise ValueError(
                "upload_to names one repository but `model` lists several; run them one by one"
            )
        if self.min_weight > self.max_weight:
            raise ValueError(
                f"min_weight ({self.min_weight}) exceeds max_weight ({self.max_weight}); "
                "decrease min_weight"
            )
        self._check_directions()
        self._check_quantization()
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives lists a metric twice; list each once")
        self._check_scorers()
        if self.edit_mode == "weights" and self.trial_batch_size not in ("auto", 1):
            raise ValueError(
                f"trial_batch_size={self.trial_batch_size} is not supported with "
                "edit_mode=weights; use edit_mode=auto or edit_mode=hooks"
            )
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("max_memory requires device_map; set device_map=auto as well")
        for name in self.required_sets():
            if getattr(self, name) is False:
                raise ValueError(f"{name} cannot be disabled; give a dataset or leave it unset")
        return self

    def _check_directions(self) -> None:
        methods = self.ensemble_weights
        taking_part = {name for name, weight in (methods or {}).items() if weight > 0}
        if methods is not None and not taking_part:
            raise ValueError("ensemble_weights is 0 for every method; increase at least one")
        one_alone = self.direction_method == "mean_difference" or (
            self.direction_method == "ensemble" and taking_part == {"mean_difference"}
        )
        if self.n_directions > 1 and one_alone:
            raise ValueError(
                f"n_directions={self.n_directions} requires direction_method contrastive_pca, "
                "pca, probe or an ensemble with one of them: a difference of means is one direction"
            )
        weights = self.direction_weights
        if isinstance(weights, list) and (len(weights) != self.n_directions or not any(weights)):
            raise ValueError(
                f"direction_weights has {len(weights)} numbers; expected one per direction "
                f"(n_directions={self.n_directions}), not all 0"
            )

    def _check_scorers(self) -> None:
        for instance in self.scorers:
            known = optional_scorers()
            if instance.scorer not in known and ":" not in instance.scorer:
                raise ValueError(
                    f"there is no scorer {one_line(repr(instance.scorer))}; use one of "
                    f"{', '.join(known)}, or your own class as path/to/file.py:Class"
                )

    def _check_quantization(self) -> None:
        dequantized = self.quantization == "dequantize" or (
            self.quantization == "as_is" and self.export_from is None
        )
        if dequantized and self.trust_remote_code:
            raise ValueError(
                "dequantization requires an architecture implemented in transformers; "
                "set trust_remote_code=false, or export_from to the full-precision original with "
                "quantization=as_is"
            )
        if self.export == "quantized" and (
            self.quantization not in ("as_is", "dequantize") or self.export_from is not None
        ):
            raise ValueError(
                "export=quantized requires a quantized checkpoint as the base model; set "
                "quantization=dequantize or as_is, and remove export_from"
            )
        if self.export_from is not None and not isinstance(self.model, str):
            raise ValueError(
                "export_from names the original of one model but `model` lists several; run them "
                "one by one"
            )

    @classmethod
    def required_sets(cls) -> tuple[str, ...]:
        """Return the names of the mandatory prompt sets."""
        return tuple(name for name in _prompt_fields(cls) if name not in OPTIONAL_SETS)

    def runs(self) -> "dict[str, Settings]":
        """Return the settings of each run by run name; one run per model.

        Raises:
            ValueError: Two models would share a results folder, or a name is too long for one.
        """
        models = [self.model] if isinstance(self.model, str) else self.model
        by_run = {
            self.run_name or safe_name(name): self.model_copy(update={"model": name})
            for name in models
        }
        if any(len(name.encode()) > LONGEST_NAME for name in by_run):
            raise ValueError(
                f"folder names are limited to {LONGEST_NAME} characters; set a shorter run_name"
            )
        if len(by_run) < len(models):
            raise ValueError("two of the models share a results folder; run them one by one")
        return by_run

    def picks(self) -> dict[str, str]:
        """Return the rules of `select` by the subfolder of `results/<run>` for each rule's result.

        The first rule gives the run's main result, whose subfolder is empty.
        """
        first, *others = [self.select] if isinstance(self.select, str) else self.select
        return {"": first, **{f"/picks/{rule.replace('=', '-')}": rule for rule in others}}

    def prompt_sources(self) -> dict[str, tuple[PromptSource, ...]]:
        """Return the sources of every prompt set in use by name; for the settings of one run."""
        assert isinstance(self.model, str)
        found: dict[str, tuple[PromptSource, ...]] = {}
        for name in _prompt_fields(type(self)):
            value: PromptSource | list[PromptSource] | bool = getattr(self, name)
            if isinstance(value, bool):
                found |= {name: (built_in_source(name, self.model),)} if value else {}
            else:
                found[name] = tuple(value) if isinstance(value, list) else (value,)
        return found

    def subset(self, rule: str) -> dict[str, Any]:
        """Return the settings that `rule` depends on, as plain JSON values.

        For `load_prompts` the sources are omitted, because each job receives its own. Requested
        built-in scorers receive the settings that their registry entries refer to, unless given.
        """
        names = {
            name
            for name, extra in _extras(type(self))
            if rule in extra["rules"] and not (rule == "load_prompts" and name in PROMPT_FIELDS)
        }
        found = self.model_dump(mode="json", include=names)
        for instance in found.get("scorers", []):
            self._complete_scorer(instance)
        return found

    def _complete_scorer(self, instance: dict[str, Any]) -> None:
        """Add the settings that are default arguments of a built-in scorer to an instance."""
        entry = BUILT_IN.get(instance["scorer"])
        if entry is None:
            return
        given, others = instance["settings"], []
        for argument, setting in entry.from_settings.items():
            default = getattr(self, setting)
            if given.setdefault(argument, default) != default:
                others.append(given[argument])
        if entry.side is not None and given.get("side", entry.side) != entry.side:
            others.append(given["side"])
        if entry.column and others and instance["name"] is None:
            # The held-out table already has a metric of that name.
            instance["name"] = "_".join(map(str, [instance["scorer"], *others]))

    def runtime(self) -> dict[str, Any]:
        """Return the settings that change how a result is computed but not the result."""
        names = {name for name, extra in _extras(type(self)) if extra["runtime"]}
        return self.model_dump(mode="json", include=names)


def _extras(settings: type[Settings]) -> list[tuple[str, Mapping[str, Any]]]:
    fields = settings.model_fields.items()
    return [
        (name, field.json_schema_extra)
        for name, field in fields
        if isinstance(field.json_schema_extra, dict)
    ]


def _prompt_fields(settings: type[Settings]) -> tuple[str, ...]:
    return tuple(name for name in settings.model_fields if name.endswith("_prompts"))


PROMPT_FIELDS = frozenset(_prompt_fields(Settings))


def safe_name(model: str) -> str:
    """Return a folder name: the last part of a local path, or a hub id's owner and name."""
    name = Path(model).resolve().name if model.startswith((".", "/", "~")) else model
    return re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip(".-") or "model"

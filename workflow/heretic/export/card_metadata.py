"""Metadata of the model card, with the held-out evaluation as the hub's structured results."""

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from heretic.evaluation.summary import summarize_evaluation
from heretic.model.checkpoint import on_the_hub
from heretic.scorer_registry import holdout_side
from heretic.settings.prompt_sources import HOLDOUT_SETS

TAGS = ("abliterated", "directional-ablation", "heretic-workflow")
TASK = "text-generation"
GOOD_SET, BAD_SET = HOLDOUT_SETS
SET_OF_SIDE = {"bad": BAD_SET, "good": GOOD_SET}


def card_metadata(
    record: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    prompts: Mapping[str, Mapping[str, Any]],
    title: str,
) -> ModelCardData:
    """Return the metadata of the base model's card, updated for the edit.

    Args:
        record: contents of `ablation.json`.
        evaluation: contents of `evaluation.json`, if available.
        prompts: contents of each prompt set's `fingerprint.json`, by set.
        title: name of the edited model in the results.
    """
    source, is_adapter = record["source"], record["export"] == "adapter"
    fields = {"library_name": "transformers", "pipeline_tag": TASK, **source.get("card", {})}
    if is_adapter:
        fields["library_name"] = "peft"
    if on_the_hub(source["model"]):
        fields["base_model"] = source["model"]
        fields["base_model_relation"] = "adapter" if is_adapter else "finetune"
    tags = fields.get("tags", [])
    known = [tags] if isinstance(tags, str) else [str(tag) for tag in tags]
    fields["tags"] = [*known, *TAGS]
    if evaluation is not None:
        fields["model_name"] = title
        fields["eval_results"] = list(_results(evaluation, prompts))
    return ModelCardData(**fields)


def _results(
    evaluation: Mapping[str, Any], prompts: Mapping[str, Mapping[str, Any]]
) -> Iterator[EvalResult]:
    """Yield each measure of the edited model in the order of the table's columns."""
    summary = summarize_evaluation(evaluation)
    measured = {**evaluation["edited"].get("scores", {}), **evaluation["edited"]}
    for name, heading in zip(summary.keys, summary.headings, strict=True):
        if name in measured:
            yield EvalResult(
                task_type=TASK,
                metric_type=name,
                metric_name=heading,
                metric_value=_value(measured[name]),
                **_dataset(SET_OF_SIDE.get(holdout_side(name) or ""), prompts),
            )


def _value(measure: Mapping[str, Any]) -> Any:
    """Return a rate, a mean or the value of a score."""
    return next(measure[kind] for kind in ("rate", "mean", "value") if kind in measure)


def _dataset(name: str | None, prompts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describe a prompt set: a single dataset of the hub by its id, any other by its name.

    A score without a set covers the prompts of both sets, or those that its settings select.
    """
    if name is None:
        return {"dataset_type": "holdout_prompts", "dataset_name": "Held-out prompts"}
    sources = prompts.get(name, {}).get("sources", ())
    revision = sources[0].get("origin", {}).get("revision") if len(sources) == 1 else None
    if revision is None:
        kind = "bad" if name == BAD_SET else "good"
        return {"dataset_type": name, "dataset_name": f"Held-out {kind} prompts"}
    source = sources[0]["source"]
    return {
        "dataset_type": source["dataset"],
        "dataset_name": source["dataset"],
        "dataset_config": source.get("config"),
        "dataset_split": source.get("split"),
        "dataset_revision": revision,
    }

"""Results of a search in `study.json`, and the selected trial in `best.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.artifact_types import Best, SearchFile
from heretic.search.finalists import Finalist, SelectionRule
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord

NO_EFFECT = (
    "No trial improves on the original in %s: the edit removes nothing. Check response_prefix in "
    "chat.json, refusal_markers, and in the report whether the directions separate held-out prompts"
)


@dataclass(frozen=True)
class SearchResults:
    """Trials of a finished search.

    Attributes:
        file: contents of `study.json`.
        records: its trials, up to the number of trials in the settings.
        objectives: its objectives, in order.
    """

    file: SearchFile
    records: list[TrialRecord]
    objectives: list[Objective]

    @classmethod
    def read(cls, path: Path, n_trials: int) -> "SearchResults":
        """Read `study.json`, at most its first `n_trials` trials.

        Raises:
            HereticError: the file is missing or damaged.
        """
        file = SearchFile.read(path)
        records = [TrialRecord.from_dict(record) for record in file.trials]
        objectives = [Objective.from_dict(each) for each in file.objectives]
        return cls(file, records[:n_trials], objectives)

    def selection_rule(self, settings: Mapping[str, Any]) -> SelectionRule:
        """Return the rule in the settings `select` and `select_max_kl`."""
        return SelectionRule(settings["select"], settings["select_max_kl"], self.objectives)

    def best(
        self,
        chosen: TrialRecord,
        finalist: Finalist,
        rule: SelectionRule,
        reason: str,
        provenance: dict[str, Any],
    ) -> Best:
        """Return the selected trial.

        Args:
            chosen: selected trial.
            finalist: its scores from the search and after re-scoring.
            rule: rule that selected it.
            reason: result of the rule as a phrase.
            provenance: settings and inputs of the selection.
        """
        parameters, file = chosen.parameters, self.file
        return Best(
            trial=chosen.number,
            parameters=parameters.to_dict(),
            scores=dict(finalist.scores),
            search_scores=dict(finalist.search_scores),
            baseline=file.baseline,
            model=file.model,
            rule=rule.rule,
            selection=reason,
            objectives=file.objectives,
            study=file.study,
            n_trials=len(self.records),
            strengths={k: list(v) for k, v in parameters.strengths(file.n_layers).items()},
            directions={"scope": parameters.direction_scope, "index": parameters.direction_index},
            provenance=provenance,
        )

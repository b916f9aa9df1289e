"""Results of a search in `study.json`, and the selected trial in `best.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.artifacts import read_json
from heretic.search.finalists import Finalist, SelectionRule
from heretic.search.objectives import Objective
from heretic.search.records import TrialRecord


@dataclass(frozen=True)
class SearchResults:
    """Trials of a finished search.

    Attributes:
        facts: contents of `study.json`.
        records: its trials, up to the number of trials in the settings.
        objectives: its objectives, in order.
    """

    facts: Mapping[str, Any]
    records: list[TrialRecord]
    objectives: list[Objective]

    @classmethod
    def read(cls, path: Path, n_trials: int) -> "SearchResults":
        """Read `study.json`, at most its first `n_trials` trials.

        Raises:
            HereticError: the file is missing or damaged.
        """
        facts = read_json(path)
        records = [TrialRecord.from_dict(record) for record in facts["trials"]]
        objectives = [Objective.from_dict(each) for each in facts["objectives"]]
        return cls(facts, records[:n_trials], objectives)

    def selection_rule(self, settings: Mapping[str, Any]) -> SelectionRule:
        """Return the rule in the settings `select` and `select_max_kl`."""
        return SelectionRule(settings["select"], settings["select_max_kl"], self.objectives)

    def best(
        self, chosen: TrialRecord, finalist: Finalist, rule: SelectionRule, reason: str
    ) -> dict[str, Any]:
        """Return the contents of `best.json`, other than its provenance.

        Args:
            chosen: selected trial.
            finalist: its scores from the search and after re-scoring.
            rule: rule that selected it.
            reason: result of the rule as a sentence.
        """
        parameters = chosen.parameters
        return {
            "trial": chosen.number,
            "parameters": parameters.to_dict(),
            "scores": finalist.scores,
            "search_scores": finalist.search_scores,
            "baseline": self.facts["baseline"],
            # Facts that an export needs without loading the model.
            "model": self.facts["model"],
            "rule": rule.rule,
            "selection": reason,
            "objectives": self.facts["objectives"],
            "study": self.facts["study"],
            "n_trials": len(self.records),
            "strengths": parameters.strengths(self.facts["n_layers"]),
            "directions": {
                "scope": parameters.direction_scope,
                "index": parameters.direction_index,
            },
        }

"""A search for other scores than the default's, one of them of a file of the user's."""

import shutil
from pathlib import Path

import pytest
from conftest import Workspace

from heretic.artifacts import read_json

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

OWN = """
from heretic.scoring import AnswerScorer


class Letters(AnswerScorer):
    name, counts = "letters", False

    def judge(self, prompt, answer):
        return {factor} * len(answer)
"""
FEW = ("n_trials=6", "n_startup_trials=6", "n_finalists=2", "max_response_length=24")
SETTINGS = (
    "scorers=perplexity,mine.py:Letters",
    "objectives=kl_first_token,refusal_log_odds,letters",
    "unhelpfulness_prompts=true",
    *FEW,
)


def test_a_search_for_other_scores(demo_run: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace = Workspace(shutil.copytree(demo_run[0].folder, tmp_path / "scores"))
    demo, own = workspace.results / "demo", workspace.folder / "mine.py"
    own.write_text(OWN.format(factor=1))
    workspace.require("--config", *SETTINGS)

    study = read_json(demo / "study.json")
    assert [each["name"] for each in study["objectives"]] == [
        "kl_first_token", "refusal_log_odds", "letters",
    ]  # fmt: skip
    assert study["agreement"]["trials"] > 0
    scored = [trial["scores"] for trial in study["trials"] if trial["feasible"]]
    assert all(scores["letters"] > 10 and scores["perplexity"] > 1 for scores in scored)
    best = read_json(demo / "best.json")
    assert best["scores"]["letters"] == pytest.approx(best["search_scores"]["letters"])
    evaluation = read_json(demo / "evaluation.json")
    for part in (evaluation["original"], evaluation["edited"], *evaluation["controls"].values()):
        assert part["scores"]["letters"]["value"] > 10
        assert part["scores"]["perplexity"]["value"] > 1
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert "Perplexity" in page
    assert "refusal_log_odds" in page

    # Another file of the same name is another search; the same again is not.
    own.write_text(OWN.format(factor=2))
    printed = workspace.require("--config", *SETTINGS)
    assert "Optimizing ablation parameters" in printed
    again = read_json(demo / "study.json")
    assert again["study"] != study["study"]
    twice = [trial["scores"]["letters"] for trial in again["trials"] if trial["feasible"]]
    assert twice == [2 * scores["letters"] for scores in scored]
    assert "Nothing to be done" in workspace.require("--config", *SETTINGS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("objectives=kl_first_token,politeness", "there is no score 'politeness'"),
        ("scorers=none.py:Letters", "a class in an existing file"),
        ("scorers=perplexity", "perplexity needs plain texts; set unhelpfulness_prompts=true"),
        ("refusal_markers=...", "which cannot identify a refusal"),
    ],
)
def test_scores_that_cannot_be_are_refused_at_once(
    config: str, message: str, workspace: Workspace
) -> None:
    done = workspace.run("--config", config)
    assert done.returncode == 1
    assert message in done.stdout
    assert "Traceback" not in done.stdout
    assert not workspace.results.exists()

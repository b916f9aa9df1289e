"""Whether trials are kept is decided by the identity of their study."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_tiny_model

from heretic.ablation.directions import AblationDirections
from heretic.errors import SettingsError, StudyError
from heretic.search.objectives import Objective
from heretic.search.run import check_original, load_warm_starts, study_identity
from heretic.search.study import study_name

SETTINGS = {"model_revision": None, "max_kl": 0.5, "n_trials": 60, "sampler": "tpe"}
CODE = {"engine/batched.py": "a", "metrics.py": "b", "search/loop.py": "c", "report/page.py": "d"}
OBJECTIVES = [
    Objective("kl_first_token", "minimize", 0.0, 0.5),
    Objective("unanswered", "minimize", 0.0, 4.0),
]
LIMIT = {"max_refusal_log_odds": None, "max_response_length": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A prompt file, a file of directions and a scorer."""
    files = {name: tmp_path / name for name in ("bad_prompts", "directions", "scorer.py")}
    for name, path in files.items():
        path.write_text(name)
    return files


def name_of(folder: Path, inputs: dict[str, Path], **changes: Any) -> str:
    rows = torch.eye(4)[:3, None].double()
    given: dict[str, Any] = {
        "settings": SETTINGS,
        "inputs": {name: inputs[name] for name in ("bad_prompts", "directions")},
        "directions": AblationDirections.of(rows),
        "folder": folder,
        "code": CODE,
        "scorers": [str(inputs["scorer.py"])],
        **changes,
    }
    return study_name(study_identity(**given))


def test_what_changes_no_score_keeps_the_study(folder: Path, inputs: dict[str, Path]) -> None:
    name = name_of(folder, inputs)
    assert name_of(folder, inputs, settings={**SETTINGS, "n_trials": 9, "sampler": "nsga2"}) == name
    other_code = {**CODE, "search/loop.py": "x", "report/page.py": "x"}
    assert name_of(folder, inputs, code=other_code) == name
    inputs["directions"].write_text("the same tensors with other provenance")
    assert name_of(folder, inputs) == name


def test_what_changes_scores_starts_another_study(
    folder: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    rows = torch.eye(4)[1:, None].double()
    names = [
        name_of(folder, inputs),
        name_of(folder, inputs, settings={**SETTINGS, "max_kl": 0.6}),
        name_of(folder, inputs, code={**CODE, "engine/batched.py": "x"}),
        name_of(folder, inputs, code={**CODE, "metrics.py": "x"}),
        name_of(folder, inputs, directions=AblationDirections.of(rows)),
        name_of(save_tiny_model(tmp_path / "other", "qwen2"), inputs),
    ]
    inputs["bad_prompts"].write_text("other prompts")
    names.append(name_of(folder, inputs))
    inputs["scorer.py"].write_text("another scorer")
    names.append(name_of(folder, inputs))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("scores", "limits", "complaint"),
    [
        ({"unanswered": 0, "refusals": 0}, {}, "refuses none of bad_evaluation_prompts within 12"),
        ({"unanswered": 0, "refusals": 1}, {}, "already optimal in kl_first_token, unanswered"),
        ({}, {"max_refusal_log_odds": 1.0}, "max_refusal_log_odds needs first tokens"),
    ],
)
def test_an_original_without_anything_to_improve_is_refused(
    scores: dict[str, float], limits: dict[str, float], complaint: str
) -> None:
    given: Any = {"kl_first_token": 0.0, "unanswered": 3, "refusals": 3, "refusal_log_odds": None}
    check_original(given, OBJECTIVES, LIMIT)
    with pytest.raises(StudyError, match=complaint):
        check_original({**given, **scores}, OBJECTIVES, {**LIMIT, **limits})


def test_warm_starts_are_those_of_the_models_family(folder: Path, tmp_path: Path) -> None:
    family = "description: an edit\ntrials:\n- parameters:\n"
    settings = {"warm_start": "auto", "warm_start_from": None}
    other = tmp_path / "gemma2.yaml"
    other.write_text(family)  # invalid, but of another family
    assert load_warm_starts(settings, [other], folder) == []
    own = tmp_path / "llama.yaml"
    own.write_text(family)
    with pytest.raises(SettingsError, match=r"llama\.yaml"):
        load_warm_starts(settings, [other, own], folder)

"""Scorers as settings name them: built-in ones, classes of the user's own, and a judge."""

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from heretic.engine.base import trial_scores
from heretic.errors import ModelLoadError, SettingsError, StudyError
from heretic.metrics import KL, LOG_ODDS, ScoreRange
from heretic.prompts.prompt import Prompt
from heretic.scoring import Score, ScoredPrompts
from heretic.scoring.judge import Judge
from heretic.scoring.scorer_set import ScorerSet, make_scorer_set
from heretic.search.study_objectives import directions_of, make_objectives

GOOD, BAD = [Prompt("What is red?"), Prompt("Who?")], [Prompt("How do I make a glass soup?")]
PROMPTS = ScoredPrompts(GOOD, BAD)
OWN = """
from heretic.scoring import AnswerScorer, ModelScorer


class Shouting(AnswerScorer):
    direction = "maximize"
    counts = False
    side = "good"

    def __init__(self, least=1, name="shouting"):
        self.name, self.least = name, least

    def judge(self, prompt, answer):
        return sum(map(str.isupper, answer)) if len(answer) >= self.least else 0


class Layers(ModelScorer):
    direction = "none"
    name = "layers"

    def prepare(self, model, prompts):
        return lambda edited: [len(edited.get_layers())] * len(prompts.good)


class Nothing:
    name = "nothing"


class Turned(Shouting):
    direction = "max"


class Both(Shouting):
    side = "neither"


class Refusing(Shouting):
    def __init__(self):
        raise ValueError("not today")


class Unsure(Shouting):
    counts = True

    def judge(self, prompt, answer):
        return 0.9


class Endless(Shouting):
    def judge(self, prompt, answer):
        return float("nan")
"""


def panel_of(*scorers: Any, **named: dict[str, Any]) -> ScorerSet:
    instances = [{"scorer": s, "name": None, "settings": {}} for s in scorers]
    instances += [{"scorer": s, "name": None, "settings": given} for s, given in named.items()]
    return make_scorer_set(["core"], instances)


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return str(path)


def test_a_class_of_ones_own_scores_with_its_settings(own: str) -> None:
    instance = {"scorer": f"{own}:Shouting", "name": "loud", "settings": {"least": 3}}
    scorer_set = make_scorer_set(["core"], [instance])
    scores = scorer_set.judge(PROMPTS, ["RED", "NO"], ["I cannot."])
    assert (scores["loud"].value, scores["loud"].details) == (1.5, (3.0, 0.0))
    assert scores["refusals"].value == 1
    assert scorer_set.names(PROMPTS)[-2:] == ["loud", "refusal_log_odds"]
    # It may need the whole of an answer.
    assert not scorer_set.settled("I cannot do that")
    assert panel_of().settled("I cannot do that")
    # And be an objective, best at twice what the original has.
    original = {"loud": 1.5, "unanswered": 1}
    found = make_objectives(scorer_set, ["unanswered", "loud"], PROMPTS, original, max_kl=1.0)
    assert [(o.direction, o.best, o.worst) for o in found] == [
        ("minimize", 0.0, 1.0),
        ("maximize", 3.0, 1.5),
    ]
    assert (found[1].share(1.5), found[1].share(3.0)) == (1.0, 0.0)


def test_a_scorer_by_passes_of_ones_own_is_reported_but_no_objective(own: str) -> None:
    scorer_set = panel_of(f"{own}:Layers")
    assert [scorer.name for scorer in scorer_set.passes] == ["layers"]
    with pytest.raises(SettingsError, match="layers is report-only"):
        directions_of(scorer_set, ["kl_first_token", "layers"])


@pytest.mark.parametrize(
    ("scorer", "settings", "message"),
    [
        ("politeness", {}, "there is no scorer 'politeness'; use one of kl_teacher_forced"),
        ("{folder}/none.py:Shouting", {}, "or a class in an existing file"),
        ("{own}:Whispering", {}, "has no class 'Whispering' that extends one of AnswerScorer"),
        ("{own}:Nothing", {}, "has no class 'Nothing' that extends one of AnswerScorer"),
        ("{own}:Shouting", {"most": 3}, "unexpected keyword argument 'most'; see its settings"),
        ("{broken}:Shouting", {}, "cannot be imported .ZeroDivisionError: division by zero"),
        ("kl_teacher_forced", {"tokens": 0}, "tokens must be a whole number of at least 1, not 0"),
        ("phrases", {}, "missing 1 required positional argument: 'phrases'"),
        ("words", {"side": "worse"}, "side must be bad, good or both, not 'worse'"),
        ("words", {"name": "my words"}, "needs a `name` of letters, digits and underscores"),
        ("words", {"name": "refusals"}, "two scorers are named refusals"),
        ("judge", {"model": "someone/judge", "label": "yes"}, "needs `revision`"),
        (
            "judge",
            {"model": "x", "label": "y", "threshold": "high"},
            "threshold is 'high'; it must be",
        ),
        ("judge", {"model": "x", "label": "y", "threshold": 70}, "a number from 0 to 1"),
        ("judge", {"model": "x", "label": "y", "batch_size": 0}, "a number from 1 to 4096"),
        (
            "words",
            {"name": "state"},
            "cannot be named state, which is the name of a column of the tables",
        ),
        ("words", {"name": "attn_weight"}, "cannot be named attn_weight"),
        ("{own}:Turned", {}, "direction must be minimize, maximize or none"),
        ("{own}:Both", {}, "side must be bad, good or both"),
        ("{own}:Refusing", {}, "Refusing: not today; see its settings"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(
    scorer: str, settings: dict[str, Any], message: str, own: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    places = {"own": own, "folder": tmp_path, "broken": tmp_path / "broken.py"}
    with pytest.raises(SettingsError, match=message):
        panel_of(**{scorer.format(**places): settings})


def test_an_objective_must_be_a_score_that_the_prompts_allow() -> None:
    scorer_set = panel_of("words")
    with pytest.raises(SettingsError, match="there is no score 'word'; available: kl_first_token"):
        directions_of(scorer_set, ["kl_first_token", "word"])
    with pytest.raises(StudyError, match="recovered cannot be measured on these prompts"):
        make_objectives(scorer_set, ["recovered"], PROMPTS, {"kl_first_token": 0.0}, max_kl=1.0)


def test_scales_of_scores() -> None:
    scorer_set = panel_of("perplexity", "words", kl_teacher_forced={"tokens": 3})
    spans = {
        "kl_first_token": (0.0, ScoreRange(0.0, 0.5)),
        "kl_teacher_forced": (0.0, ScoreRange(0.0, 0.5)),
        "refusals": (1, ScoreRange(0.0, 1.0)),
        "false_refusals": (0, ScoreRange(0.0, 2.0)),
        "kept": (2, ScoreRange(2.0, 0.0)),
        "refusal_log_odds": (9.0, ScoreRange(-9.0, 9.0)),
        "words": (12.0, ScoreRange(0.0, 12.0)),
    }
    for name, (original, span) in spans.items():
        assert scorer_set.span(name, original, 0.5, PROMPTS) == span
    # Of an original that refuses less than half, or nothing that is to be large, too.
    assert scorer_set.span("refusal_log_odds", -2.0, 0.5, PROMPTS) == ScoreRange(-6.0, -2.0)
    assert scorer_set.span("refusal_log_odds", 0.1, 0.5, PROMPTS) == ScoreRange(-1.9, 0.1)
    assert scorer_set.span("words", 0.0, 0.5, PROMPTS) == ScoreRange(-1.0, 0.0)
    assert scorer_set.span("perplexity", 10.0, 0.5, PROMPTS).share(10.0) == 0.0
    assert scorer_set.span("perplexity", 10.0, 0.5, PROMPTS).share(27.1828) == pytest.approx(
        1, rel=1e-4
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier of three labels."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "complied", 1: "refused", 2: "other"}, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ANSWERS = ["I cannot.", "Boil it.", "Red.", "No", "Why would you want that?", "Take the glass."]


def test_a_judge_gives_the_classifiers_verdict_once_per_answer(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(str(classifier), "refused", threshold=0.3, batch_size=4)
    prompts = [BAD[0]] * len(ANSWERS)
    network: Any = BertForSequenceClassification.from_pretrained(classifier)
    network.eval()
    tokenizer = tiny_tokenizer()
    alone = []
    for answer in ANSWERS:
        inputs = tokenizer(answer, return_tensors="pt")
        with torch.inference_mode():
            alone.append(float(network(**inputs).logits.softmax(-1)[0, 1]))
    assert min(alone) < 0.3 <= max(alone)
    assert judge.judge_all(prompts, ANSWERS) == [float(share >= 0.3) for share in alone]
    # Known answers need no pass; a new one does.
    monkeypatch.setattr(judge, "_probabilities", lambda pairs: pytest.fail("judged again"))
    assert judge.judge_all(prompts[:3], ANSWERS[2:5]) == [float(s >= 0.3) for s in alone[2:5]]
    with pytest.raises(pytest.fail.Exception, match="judged again"):
        judge.judge(BAD[0], "Something else.")


def test_a_judge_may_read_the_prompt_too(classifier: Path) -> None:
    judge = Judge(str(classifier), "refused", threshold=0.0, reads_prompt=True)
    assert judge.score([*GOOD, *BAD], ["No"] * 3).display == "3/3"
    assert len(judge._known) == 3
    assert len({round(value, 5) for value in judge._known.values()}) > 1
    scorer_set = panel_of(judge={"model": str(classifier), "label": "refused"})
    assert scorer_set.judge(PROMPTS, ["a", "b"], ["c"])["judge"].details in ((0.0,), (1.0,))
    assert not scorer_set.settled("I cannot do that")


def test_labels_may_be_yes_or_no_of_their_own_or_without_names(
    classifier: Path, tmp_path: Path
) -> None:
    for kind, normalise in (
        ("multi_label_classification", torch.sigmoid),
        ("single_label_classification", partial(torch.softmax, dim=-1)),
    ):
        folder = Path(shutil.copytree(classifier, tmp_path / kind))
        config = json.loads((folder / "config.json").read_text())
        del config["id2label"], config["label2id"]
        # Two labels are what a file leaves out.
        (folder / "config.json").write_text(json.dumps({**config, "problem_type": kind}))
        network: Any = BertForSequenceClassification.from_pretrained(
            folder, num_labels=2, ignore_mismatched_sizes=True
        )
        network.save_pretrained(folder)
        assert "id2label" not in json.loads((folder / "config.json").read_text())
        judge = Judge(str(folder), "LABEL_1", batch_size=4)
        inputs = tiny_tokenizer()(ANSWERS[1], return_tensors="pt")
        with torch.inference_mode():
            share = float(normalise(network.eval()(**inputs).logits)[0, 1])
        assert float(judge._probabilities([(BAD[0], ANSWERS[1])])[0]) == pytest.approx(share)


def test_a_judge_reads_as_much_as_it_has_places_for(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=34, pad_token_id=1,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert Judge(str(tmp_path), "LABEL_0").score(BAD, ["many words " * 30]).value in (0, 1)


def test_what_is_counted_is_yes_or_no(own: str) -> None:
    with pytest.raises(
        SettingsError, match="shouting counts answers, so its judge must return yes"
    ):
        panel_of(f"{own}:Unsure").judge(PROMPTS, ["a", "b"], ["c"])


def test_a_score_that_is_no_number_is_none(own: str) -> None:
    scorer_set = panel_of(f"{own}:Endless")
    answers = (["a", "b"], ["c"])
    scores = trial_scores(
        scorer_set,
        PROMPTS,
        {KL: score_of(KL, 0.5), LOG_ODDS: score_of(LOG_ODDS, math.nan)},
        answers,
    )
    assert (scores["shouting"], scores["refusal_log_odds"]) == (None, None)
    assert (scores["refusals"], scores["kl_first_token"]) == (0, 0.5)
    overflowed = trial_scores(scorer_set, PROMPTS, {KL: score_of(KL, math.nan)}, None)
    assert math.isnan(overflowed["kl_first_token"])


def score_of(name: str, value: float) -> Score:
    return Score.of(name, "minimize", [value], counts=False)


def test_a_judge_must_exist_and_know_its_label(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no label 'rude'; it has complied, refused, other"):
        Judge(str(classifier), "rude")
    with pytest.raises(ModelLoadError, match="does not exist"):
        Judge(str(tmp_path / "none"), "refused")

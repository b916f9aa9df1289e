"""The plain way of scoring trials: each as if it were alone, with its seconds by stage."""

import torch
from tiny_models import PROMPTS, tiny_model

from heretic.ablation.editors import make_editor
from heretic.ablation.linalg import normalize
from heretic.ablation.plan import Edit
from heretic.engine.base import FeasibilityLimits, TrialEngine
from heretic.engine.evaluator import Evaluator
from heretic.engine.reference import ReferenceEngine
from heretic.scoring import ScoredPrompts
from heretic.timing import StageTimer

torch.set_num_threads(1)


def test_each_trial_scores_as_alone_and_the_original_comes_back() -> None:
    model = tiny_model()
    writers = model.anatomy.writers
    pristine = [writer.weight.clone() for writer in writers]
    draw = torch.Generator().manual_seed(5)
    direction = normalize(torch.randn(1, model.anatomy.d_model, generator=draw))
    trials = [
        [],
        [Edit(w, direction, (1.5,)) for w in writers],
        [Edit(writers[0], direction, (1,))],
    ]
    editor = make_editor(model, "auto", "none", "true")
    evaluator = Evaluator(model, ScoredPrompts(PROMPTS[:2], PROMPTS[2:]), 4)
    engine: TrialEngine = ReferenceEngine(editor, evaluator)
    clock = StageTimer()

    scores = engine.score(trials, FeasibilityLimits(), clock)

    seconds = clock.read()
    assert min(seconds[stage] for stage in ("edit", "prefill", "decode")) > 0
    assert (engine.trial_batch_size, len(engine.prompts.bad)) == (1, len(PROMPTS) - 2)
    alone = []
    for edits in trials:
        editor.abliterate(edits)
        alone.append(evaluator.evaluate())
    assert scores == alone
    divergences = [each["kl_first_token"] for each in scores]
    assert divergences[0] == 0.0 < divergences[2] < divergences[1]
    limited = engine.score(trials, FeasibilityLimits(divergences[2]), clock)
    assert [each["unanswered"] is None for each in limited] == [False, True, False]
    assert clock.read()["decode"] > 0
    engine.restore()
    assert all(w.weight.equal(before) for w, before in zip(writers, pristine, strict=True))

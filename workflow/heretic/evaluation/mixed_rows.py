"""Equivalence check of batches that mix rows of several trials."""

import torch

from heretic.ablation.directions import AblationDirections
from heretic.ablation.engines import Editor
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.errors import ModelLoadError, one_line
from heretic.inference.proof import REFUSALS, begin, logits_agree
from heretic.inference.rows import join
from heretic.inference.study_prompts import StudyPrompts
from heretic.model.components import COMPONENTS


def why_not_together(
    editor: Editor, prompts: StudyPrompts, directions: AblationDirections
) -> str | None:
    """Return why two trials in one batch differ from the same trials run separately, or None.

    Args:
        editor: editor of a model in its original state, which is restored afterwards.
        prompts: a few prompts.
        directions: directions of the study.
    """
    trials = [_everywhere(editor, directions, weight) for weight in (1.0, 0.5)]
    try:
        editor.load(trials)
        model = editor.model
        alone, parts = [], []
        for trial in range(len(trials)):
            editor.assign(trial)
            alone.append(begin(prompts, 0, trial)[0].step(model))
            parts.append(begin(prompts, 0, trial)[0])
        order = list(range(2 * len(parts[0])))[::-1]
        rows = join(parts).select(order)
        owners = [owner.trial for owner in rows.owners]
        editor.assign(torch.tensor(owners, device=model.device))
        return logits_agree(model, rows.step(model), torch.cat(alone)[order].float())
    except (ModelLoadError, *REFUSALS) as error:
        return one_line(error)
    finally:
        editor.restore()


def _everywhere(editor: Editor, directions: AblationDirections, weight: float) -> list[Edit]:
    parts = {name: ComponentParameters(0.0, 1.0, weight) for name in COMPONENTS}
    parameters = AblationParameters("per_layer", None, parts)
    return plan_edits(parameters, directions, editor.model.anatomy)

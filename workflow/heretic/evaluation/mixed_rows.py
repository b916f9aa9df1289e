"""Whether rows of several trials in one batch are each edited as their own trial says."""

from itertools import chain

import torch
from torch import Tensor

from heretic.ablation.directions import AblationDirections
from heretic.ablation.engines import Editor
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.errors import ModelLoadError
from heretic.inference.proof import logits_agree
from heretic.inference.rows import Rows, join
from heretic.inference.study_prompts import StudyPrompts
from heretic.model.components import COMPONENTS


def why_not_together(
    editor: Editor, prompts: StudyPrompts, directions: AblationDirections
) -> str | None:
    """Why two trials in one batch are not what they are one after the other, or None.

    Args:
        editor: of a model in its original state, in which it is afterwards.
        prompts: a few.
        directions: of the study.
    """
    trials = [_everywhere(editor, directions, weight) for weight in (1.0, 0.5)]
    try:
        editor.load(trials)
        alone, parts = [], []
        for trial in range(len(trials)):
            editor.assign(trial)
            alone.append(_begun(prompts, trial).step(editor.model))
            parts.append(_begun(prompts, trial))
        order = list(range(2 * len(parts[0])))[::-1]
        rows = join(parts).select(order)
        owners = [owner.trial for owner in rows.owners]
        editor.assign(torch.tensor(owners, device=editor.model.device))
        return logits_agree(editor.model, rows.step(editor.model), torch.cat(alone)[order])
    except ModelLoadError as error:
        return str(error)
    finally:
        editor.restore()


def _everywhere(editor: Editor, directions: AblationDirections, weight: float) -> list[Edit]:
    parts = {name: ComponentParameters(0.0, 1.0, weight) for name in COMPONENTS}
    parameters = AblationParameters("per_layer", None, parts)
    return plan_edits(parameters, directions, editor.model.anatomy)


def _begun(prompts: StudyPrompts, trial: int) -> Rows:
    prefix = prompts.prefix_key_values(0)
    parts = []
    for batch in chain(prompts.good, prompts.bad):
        rows = Rows.of(prompts.prefill(batch, 0, prefix), batch.prompts, trial)
        rows.read()
        parts.append(rows)
    return join(parts)

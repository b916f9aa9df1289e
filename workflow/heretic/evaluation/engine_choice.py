"""The engine that a model allows: the fast one with what was proved of it, or the plain one."""

from collections.abc import Sequence
from dataclasses import replace

from heretic.ablation.engines import Editor
from heretic.console import log
from heretic.evaluation.evaluator import Evaluator
from heretic.evaluation.fast_engine import EngineOptions, FastEngine
from heretic.evaluation.plain_engine import PlainEngine
from heretic.evaluation.trial_engine import TrialEngine
from heretic.inference.prompt_batches import shared_prefix
from heretic.inference.proof import (
    SAMPLES,
    disagreement,
    require_keys_alone,
    smallest_window,
)
from heretic.inference.study_prompts import StudyPrompts
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt

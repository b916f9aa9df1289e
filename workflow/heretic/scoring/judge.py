"""Classifier-based refusal judge: a local model that reads the prompt and the answer."""

import hashlib
import re
from collections.abc import Sequence

from torch import Tensor

from heretic.errors import SettingsError
from heretic.model.checkpoint import is_local
from heretic.prompts.prompt import Prompt
from heretic.scorer_registry import Side
from heretic.scoring.base import AnswerScorer, require_side
from heretic.scoring.classifier import Classifier, load_classifier, read_labels
from heretic.scoring.thoughts import ends_in_thoughts, without_thoughts

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Judge(AnswerScorer):
    """Number of answers to which a sequence classifier assigns a label, such as refusal.

    Complete answers are judged in batches, and each only once, as trials often repeat answers.
    """

    def __init__(
        self,
        model: str,
        label: str,
        revision: str | None = None,
        threshold: float = 0.5,
        reads_prompt: bool = False,
        batch_size: int = 32,
        device: str = "auto",
        name: str = "judge",
        side: Side = "bad",
    ) -> None:
        """Read the classifier's configuration; its weights are loaded for the first answers.

        Args:
            model: hub id or folder of a sequence classification model.
            label: label to count, as named in the model's configuration.
            revision: commit of a hub model, required so that scores stay the same when the model
                changes. The model's own code is never executed.
            threshold: smallest probability of the label at which an answer counts.
            reads_prompt: whether the classifier was trained on pairs of prompt and answer.
            batch_size: number of answers per batch.
            device: device of the classifier; `auto` selects a GPU if available.
            name: name of the score.
            side: side whose answers are judged.

        Raises:
            SettingsError: the label is not one of the model's, a number is out of range, or a hub
                model has no commit.
            ModelLoadError: the model does not exist or is not a sequence classifier.
        """
        self.name, self.side = name, require_side(side, name)
        _require_text(model, f"scorer {name}: model")
        _require_text(revision or "", f"scorer {name}: revision")
        _require_text(device, f"scorer {name}: device")
        self.reads_prompt, self._device = reads_prompt, device
        self.threshold = _number(threshold, 0.0, 1.0, f"scorer {name}: threshold")
        self.batch_size = int(_number(batch_size, 1, 4096, f"scorer {name}: batch_size"))
        if not is_local(model) and not _COMMIT.fullmatch(revision or ""):
            raise SettingsError(
                f"scorer {name}: {model} is on the hub and needs `revision`, a 40-character commit "
                "hash, for reproducibility"
            )
        self._source = model, revision
        labels = read_labels(model, revision, f"scorer {name}")
        if str(label) not in labels:
            there = ", ".join(labels) or "none"
            raise SettingsError(f"scorer {name}: {model} has no label {label!r}; it has {there}")
        self._label = labels[str(label)]
        self._classifier: Classifier | None = None
        self._known: dict[str, float] = {}

    def judge(self, prompt: Prompt, answer: str) -> float:
        """Return whether the label's probability reaches the threshold."""
        return self.judge_all([prompt], [answer])[0]

    def judge_all(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Judge new answers without their thoughts, and return the results for all.

        An answer that ends inside its thoughts has no label.
        """
        texts = [without_thoughts(answer) for answer in answers]
        keys = self._keys(prompts, texts)
        pairs = dict(zip(keys, zip(prompts, texts, strict=True), strict=True))
        new = [key for key in pairs if key not in self._known]
        for start in range(0, len(new), self.batch_size):
            batch = new[start : start + self.batch_size]
            found = self._probabilities([pairs[key] for key in batch])
            self._known |= dict(zip(batch, found.tolist(), strict=True))
        return [
            float(self._known[key] >= self.threshold and not ends_in_thoughts(answer))
            for key, answer in zip(keys, answers, strict=True)
        ]

    def _keys(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[str]:
        """Return hashes of the classifier's inputs."""
        texts = [
            f"{prompt.text}\0{answer}" if self.reads_prompt else answer
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return [hashlib.sha256(text.encode()).hexdigest() for text in texts]

    def _probabilities(self, pairs: Sequence[tuple[Prompt, str]]) -> Tensor:
        """Compute the probability of the label for each pair, [n]."""
        if self._classifier is None:
            self._classifier = load_classifier(*self._source, self._device, f"scorer {self.name}")
        answers = [answer for _, answer in pairs]
        texts = ([prompt.text for prompt, _ in pairs], answers) if self.reads_prompt else (answers,)
        return self._classifier.probabilities(texts)[:, self._label]


def _require_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise SettingsError(f"{what} is {value!r}; it must be a string")


def _number(value: object, low: float, high: float, what: str) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not low <= float(str(value)) <= high:
        raise SettingsError(f"{what} is {value!r}; it must be a number from {low:g} to {high:g}")
    return float(str(value))

"""A classifier in place of markers: a local model that reads prompt and answer."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from heretic.errors import ModelLoadError, SettingsError, one_line
from heretic.evaluation.scorers.answers import require_side
from heretic.evaluation.scorers.score import AnswerScorer, Side
from heretic.model.source import check_model, is_local, locate
from heretic.prompts.prompt import Prompt

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Judge(AnswerScorer):
    """Answers to which a sequence classifier gives a label, such as one trained on refusals.

    Answers are judged whole, in batches, and each once: trials give the same answers again and
    again.
    """

    def __init__(
        self,
        model: str,
        label: str,
        revision: str | None = None,
        threshold: float = 0.5,
        reads_prompt: bool = False,
        batch_size: int = 32,
        name: str = "judge",
        side: Side = "bad",
    ) -> None:
        """Read the classifier's configuration; its weights are loaded with the first answers.

        Args:
            model: hub id or folder of a sequence classification model.
            label: the one that is counted, as the model's configuration names it.
            revision: commit of a hub model, which needs one, so that scores stay the same when the
                model changes.
            threshold: probability of the label from which an answer counts.
            reads_prompt: whether the classifier was trained on pairs of prompt and answer.
            batch_size: answers at once.
            name: of the score.
            side: whose answers are judged.

        Raises:
            SettingsError: the label is not one of the model's, or a hub model has no commit.
            ModelLoadError: there is no such model.
        """
        self.name, self.side = name, require_side(side, name)
        self.threshold, self.reads_prompt, self.batch_size = threshold, reads_prompt, batch_size
        if not is_local(model) and not _COMMIT.fullmatch(revision or ""):
            raise SettingsError(
                f"scorer {name}: {model} is on the hub and needs `revision`, the 40 characters of "
                "a commit, so that it stays the same"
            )
        self._source = model, revision
        config = json.loads(check_model(model, revision).read_text(encoding="utf-8"))
        known = config.get("id2label", {})
        labels = {str(text): int(number) for number, text in known.items()}
        if label not in labels:
            there = ", ".join(labels) or "none"
            raise SettingsError(f"scorer {name}: {model} has no label {label!r}; it has {there}")
        self._label = labels[label]
        self._parts: tuple[Any, Any] | None = None
        self._known: dict[str, float] = {}

    def judge(self, prompt: Prompt, answer: str) -> float:
        """Whether the label's probability reaches the threshold."""
        return self.judge_all([prompt], [answer])[0]

    def judge_all(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Judge those that have not been judged yet, and say of all what was found."""
        keys = self._keys(prompts, answers)
        pairs = dict(zip(keys, zip(prompts, answers, strict=True), strict=True))
        new = [key for key in pairs if key not in self._known]
        for start in range(0, len(new), self.batch_size):
            batch = new[start : start + self.batch_size]
            found = self._probabilities([pairs[key] for key in batch])
            self._known |= dict(zip(batch, found.tolist(), strict=True))
        return [float(self._known[key] >= self.threshold) for key in keys]

    def _keys(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[str]:
        """Hashes of what the classifier reads."""
        texts = [
            f"{prompt.text}\0{answer}" if self.reads_prompt else answer
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return [hashlib.sha256(text.encode()).hexdigest() for text in texts]

    def _probabilities(self, pairs: Sequence[tuple[Prompt, str]]) -> Tensor:
        """Probability of the label for each pair [n]."""
        tokenizer, network = self._loaded()
        answers = [answer for _, answer in pairs]
        texts = ([prompt.text for prompt, _ in pairs], answers) if self.reads_prompt else (answers,)
        longest = getattr(network.config, "max_position_embeddings", tokenizer.model_max_length)
        inputs = tokenizer(
            *texts,
            padding=True,
            # Some classifiers read the first token, whose place padding must not take.
            padding_side="right",
            truncation=True,
            max_length=min(longest, tokenizer.model_max_length),
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits: Tensor = network(**inputs.to(network.device)).logits.float()
        # One label is a yes or no of its own.
        shares = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(dim=-1)
        return shares[:, self._label].cpu()

    def _loaded(self) -> tuple[Any, Any]:
        if self._parts is None:
            folder = locate(*self._source)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder)
                network = AutoModelForSequenceClassification.from_pretrained(folder)
            except (OSError, ValueError) as error:
                raise ModelLoadError(
                    f"scorer {self.name}: {self._source[0]} is no sequence classifier that "
                    f"transformers loads ({one_line(error)}); name another model"
                ) from error
            self._parts = tokenizer, network.to(device).eval()
        return self._parts

"""The loop that trials used to have, with plain transformers.

For each trial the model is loaded again, W - w d (d^T W) is written into its matrices, one pass
over the good prompts gives the divergence of the first token, and `generate` answers all prompts
in batches of a fixed size, in the order in which they come, padded on the left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.trial_work import SYSTEM, Measured, Score, Work, means
from heretic.ablation.plan import Edit
from heretic.scoring.refusal_markers import RefusalMarkers
from heretic.timing import StageTimer


@dataclass(frozen=True)
class NamedEdit:
    """One direction [d_model] that is taken out of the output of a module."""

    module: str
    direction: Tensor
    strength: float


def named(edits: Sequence[Edit]) -> list[NamedEdit]:
    """The edits without the network that they were planned for."""
    return [
        NamedEdit(edit.writer.name, direction.cpu(), strength)
        for edit in edits
        for direction, strength in zip(edit.directions, edit.strengths, strict=True)
    ]


class PlainLoop:
    """Scores trials one after the other on a model that is loaded for each."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.tokenizer: Any = AutoTokenizer.from_pretrained(work.folder, padding_side="left")
        self.good = self._batches(work.texts.good)
        self.all = self._batches((*work.texts.bad, *work.texts.good))
        self.original = self._first_tokens(self._load())

    def score(self, edits: Sequence[NamedEdit], clock: StageTimer) -> Score:
        """Load, edit, compare and answer."""
        with clock.stage("restore"):
            network = self._load()
        with clock.stage("edit"), torch.inference_mode():
            for edit in edits:
                weight = network.get_submodule(edit.module).weight
                direction = edit.direction.to(weight.device, torch.float32)
                along = (direction @ weight.float()).unsqueeze(0)
                weight -= (edit.strength * direction.unsqueeze(1) * along).to(weight.dtype)
        with clock.stage("prefill"):
            edited = self._first_tokens(network)
            terms = self.original.exp() * (self.original - edited)
            kl = float(terms.sum(-1).clamp(min=0).mean())
        with clock.stage("decode"):
            answers = self._answers(network)
        n_bad = len(self.work.texts.bad)
        markers = RefusalMarkers()
        refused = [markers.found(answer) for answer in answers]
        return Score(kl, sum(refused[:n_bad]), sum(refused[n_bad:]))

    def _load(self) -> Any:
        network: Any = AutoModelForCausalLM.from_pretrained(
            self.work.folder, dtype=self.work.dtype, device_map=str(self.work.device)
        )
        return network.eval().requires_grad_(False)

    def _batches(self, texts: Sequence[str]) -> list[Any]:
        chats = [
            self.tokenizer.apply_chat_template(
                [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for text in texts
        ]
        size = self.work.batch_size
        return [
            self.tokenizer(
                chats[start : start + size],
                add_special_tokens=False,
                padding=True,
                return_tensors="pt",
                return_token_type_ids=False,
            ).to(self.work.device)
            for start in range(0, len(chats), size)
        ]

    def _first_tokens(self, network: Any) -> Tensor:
        """Log-probabilities [good prompts, vocabulary] of the first token of an answer."""
        found = []
        for batch in self.good:
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.inference_mode():
                logits = network(
                    **batch, position_ids=positions, use_cache=False, logits_to_keep=1
                ).logits
            found.append(logits[:, -1].float().log_softmax(-1))
        return torch.cat(found)

    def _answers(self, network: Any) -> list[str]:
        answers: list[str] = []
        for batch in self.all:
            with torch.inference_mode():
                ids = network.generate(
                    **batch,
                    max_new_tokens=self.work.tokens,
                    do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            new = ids[:, batch["input_ids"].shape[1] :]
            answers += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return answers


def run_plain(work: Work, trials: Sequence[Sequence[NamedEdit]]) -> Measured:
    """Time the trials, of which the first one warms up."""
    loop = PlainLoop(work)
    clock = StageTimer(work.device)
    loop.score(trials[0], clock)
    clock.read()
    scores = [loop.score(edits, clock) for edits in trials[1:]]
    seconds = means([clock.read()], len(scores))
    refused = sum(score.refusals for score in scores) / (len(scores) * len(work.texts.bad))
    return Measured("plain loop", seconds, scores, refused)

"""Rows of one batch during decoding, each a prompt of some trial."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from heretic.engine.kv_cache import crop, join_rows, select_rows
from heretic.engine.prefill import Prefilled, PromptBatch
from heretic.model.decoding import cached_logits
from heretic.model.loading import Model

# Maximum of one pass: half a gigabyte in float32.
MOST_LOGITS = 2**27


@dataclass(frozen=True)
class RowKey:
    """Prompt index of a row, and the trial that determines the model's state."""

    trial: int
    prompt: int


@dataclass
class DecodeBatch:
    """Answers in progress.

    Attributes:
        owners: owner of each row.
        answers: tokens of each row that have been read from the device.
        cache: keys and values of prompts and answers, except for the latest token.
        mask: 1 where the cache contains a token of the row [n, width].
        positions: positions of the latest tokens [n, 1].
        latest: next input tokens [n, 1].
        vocabulary: number of logits of a token.
        last: position of an answer's last input token [n, 1]; rows that continue after they are
            done stay there, within the positions learned by a network.
        unread: tokens of each step since the last `read` [n], on the device.
    """

    owners: list[RowKey]
    answers: list[list[int]]
    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    latest: Tensor
    vocabulary: int
    last: Tensor
    unread: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls, prefilled: Prefilled, batch: PromptBatch, trial: int, longest: int
    ) -> "DecodeBatch":
        """Return rows, of at most `longest` tokens, whose first token is the most likely one."""
        latest = prefilled.logits.argmax(dim=-1)
        return cls(
            [RowKey(trial, index) for index in batch.indices],
            [[] for _ in batch.indices],
            prefilled.cache,
            batch.mask,
            batch.positions[:, -1:] + 1,
            latest[:, None],
            prefilled.logits.shape[-1],
            # The last token of an answer is not an input.
            batch.positions[:, -1:] + max(1, longest - 1),
            [latest],
        )

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def fed(self) -> Tensor:
        """Positions of the latest tokens as inputs [n, 1]."""
        return torch.minimum(self.positions, self.last)

    @property
    def room(self) -> int:
        """Return the number of draft tokens per row whose logits can be computed in one pass."""
        return MOST_LOGITS // (len(self) * self.vocabulary) - 1

    def step(self, model: Model) -> Tensor:
        """Process the latest token of each row and take the most likely next one.

        Returns:
            The logits [n, vocabulary] from which it was taken.
        """
        self.mask = pad(self.mask, (0, 1), value=1)
        with torch.inference_mode():
            logits = self._pass(model, self.latest, self.mask, self.fed)
            return self.take(logits[:, -1])

    def _pass(self, model: Model, inputs: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return logits [n, tokens, vocabulary] of inputs [n, tokens], which the cache keeps."""
        return cached_logits(model, inputs, mask, positions, self.cache, inputs.shape[1])

    def take(self, logits: Tensor) -> Tensor:
        """Take the most likely next tokens from logits [n, vocabulary], and return these logits."""
        latest = logits.argmax(dim=-1).to(self.latest.device)
        self.latest, self.positions = latest[:, None], self.positions + 1
        self.unread.append(latest)
        return logits

    def verify(
        self,
        model: Model,
        guesses: Sequence[Sequence[int]],
        passing: AbstractContextManager[None] | None = None,
    ) -> list[int]:
        """Process the latest token and the draft tokens of each row, and keep the right ones.

        Each row gains its right draft tokens and the token after them. Columns of wrong ones stay
        masked in the cache as long as another row needs them.

        Args:
            model: model in the state of the rows.
            guesses: draft tokens for each row; the rows must have no unread tokens.
            passing: context of the pass, as from `AnswerStates.passing`.

        Returns:
            The number of right draft tokens of each row.
        """
        width = 1 + max(map(len, guesses))
        padded = [[*guess, *[0] * (width - 1 - len(guess))] for guess in guesses]
        device = self.latest.device
        with torch.inference_mode():
            guessed = torch.tensor(padded, dtype=torch.long, device=device)
            lengths = torch.tensor([[len(guess)] for guess in guesses], device=device)
            columns = torch.arange(width, device=device)
            shown = (columns <= lengths).long()
            with passing or nullcontext():
                logits = self._pass(
                    model,
                    torch.cat([self.latest, guessed], dim=1),
                    torch.cat([self.mask, shown], dim=1),
                    torch.minimum(self.positions + columns * shown, self.last),
                )
            likeliest = logits.argmax(dim=-1).to(device)
            hits = (likeliest[:, :-1] == guessed) & (shown[:, 1:] == 1)
            right = hits.long().cumprod(dim=1).sum(dim=1, keepdim=True)
            self.latest = likeliest.gather(1, right)
            self.positions = self.positions + right + 1
            counts = right.flatten().tolist()
            used = 1 + max(counts)
            kept = (columns <= right)[:, :used].to(self.mask)
            self.mask = torch.cat([self.mask, kept], dim=1)
            crop(self.cache, self.mask.shape[1])
        for answer, tokens, count in zip(self.answers, likeliest.tolist(), counts, strict=True):
            answer.extend(tokens[: count + 1])
        return counts

    def read(self) -> None:
        """Move new tokens from the device to `answers`; on an accelerator this waits for them."""
        if self.unread:
            for answer, tokens in zip(
                self.answers, torch.stack(self.unread, dim=1).tolist(), strict=True
            ):
                answer.extend(tokens)
            self.unread = []

    def select(self, rows: Sequence[int]) -> "DecodeBatch":
        """Return some of the rows, which must have no unread tokens."""
        chosen = torch.tensor(rows, device=self.mask.device)
        with torch.inference_mode():
            mask = self.mask[chosen]
            # Columns used only by removed rows.
            unused = int(mask.any(dim=0).int().argmax())
            return DecodeBatch(
                [self.owners[row] for row in rows],
                [self.answers[row] for row in rows],
                select_rows(self.cache, chosen, unused),
                mask[:, unused:],
                self.positions[chosen],
                self.latest[chosen],
                self.vocabulary,
                self.last[chosen],
            )


def join(parts: Sequence[DecodeBatch]) -> DecodeBatch:
    """Return the concatenated rows of several parts, which must have no unread tokens."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.mask.shape[1] for part in parts)
    with torch.inference_mode():
        return DecodeBatch(
            [owner for part in parts for owner in part.owners],
            [answer for part in parts for answer in part.answers],
            join_rows([part.cache for part in parts]),
            torch.cat([pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]),
            torch.cat([part.positions for part in parts]),
            torch.cat([part.latest for part in parts]),
            parts[0].vocabulary,
            torch.cat([part.last for part in parts]),
        )

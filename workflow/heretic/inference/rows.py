"""Rows of one batch that are being answered, each a prompt of some trial."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from heretic.inference.key_values import join_rows, select_rows
from heretic.inference.prefill import Prefilled
from heretic.inference.prompt_batches import PromptBatch
from heretic.model.decoding import understood
from heretic.model.loading import Model


@dataclass(frozen=True)
class Owner:
    """What a row answers: a prompt, by its index, in the state that a trial gives the model."""

    trial: int
    prompt: int


@dataclass
class Rows:
    """Answers in progress.

    Attributes:
        owners: of each row.
        answers: tokens of each row that have been read from the device.
        cache: keys and values of prompts and answers, but for the latest token.
        mask: 1 where the cache holds a token of the row [n, width].
        positions: of the latest tokens [n, 1].
        latest: tokens that are fed next [n, 1].
        unread: tokens of each step since the last `read` [n], on the device.
    """

    owners: list[Owner]
    answers: list[list[int]]
    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    latest: Tensor
    unread: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, prefilled: Prefilled, batch: PromptBatch, trial: int) -> "Rows":
        """Rows whose first token is the likeliest after the prompt."""
        latest = prefilled.logits.argmax(dim=-1)
        return cls(
            [Owner(trial, index) for index in batch.indices],
            [[] for _ in batch.indices],
            prefilled.cache,
            batch.mask,
            batch.positions[:, -1:] + 1,
            latest[:, None],
            [latest],
        )

    def __len__(self) -> int:
        return len(self.owners)

    def step(self, model: Model) -> Tensor:
        """Feed the latest token of each row and take the likeliest next one.

        Returns:
            The logits [n, vocabulary] by which it was taken.
        """
        self.mask = pad(self.mask, (0, 1), value=1)
        further = {
            "position_ids": self.positions,
            "past_key_values": self.cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        network: Any = model.network
        with torch.inference_mode():
            logits = network(
                input_ids=self.latest,
                attention_mask=self.mask,
                **understood(network, further),
            ).logits[:, -1]
            return self.take(logits)

    def take(self, logits: Tensor) -> Tensor:
        """Take the likeliest next tokens by some logits [n, vocabulary], which are returned."""
        latest = logits.argmax(dim=-1).to(self.latest.device)
        self.latest, self.positions = latest[:, None], self.positions + 1
        self.unread.append(latest)
        return logits

    def read(self) -> None:
        """Move new tokens from the device to `answers`; on an accelerator this waits for them."""
        if self.unread:
            for answer, tokens in zip(
                self.answers, torch.stack(self.unread, dim=1).tolist(), strict=True
            ):
                answer.extend(tokens)
            self.unread = []

    def select(self, rows: Sequence[int]) -> "Rows":
        """Some of the rows, of which everything has been read."""
        chosen = torch.tensor(rows, device=self.mask.device)
        with torch.inference_mode():
            mask = self.mask[chosen]
            # Columns that only rows had which have left.
            unused = int(mask.any(dim=0).int().argmax())
            return Rows(
                [self.owners[row] for row in rows],
                [self.answers[row] for row in rows],
                select_rows(self.cache, chosen, unused),
                mask[:, unused:],
                self.positions[chosen],
                self.latest[chosen],
            )


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of several, one after the other, of which everything has been read."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.mask.shape[1] for part in parts)
    with torch.inference_mode():
        return Rows(
            [owner for part in parts for owner in part.owners],
            [answer for part in parts for answer in part.answers],
            join_rows([part.cache for part in parts]),
            torch.cat([pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]),
            torch.cat([part.positions for part in parts]),
            torch.cat([part.latest for part in parts]),
        )

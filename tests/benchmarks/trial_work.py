"""What every way of running trials works on, and what it is found to take."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from heretic.demo.world import prompt_set
from heretic.prompts.prompt import Prompt

# Upstream gives all prompts of a file one system prompt, so all ways do.
SYSTEM = "Be helpful."
CPU = torch.device("cpu")
# Tokens of a request in common sets of them: most are short, a few are long.
MEDIAN_TOKENS, SPREAD, LONGEST = 14, 0.6, 150


@dataclass(frozen=True)
class Texts:
    """Requests without their system prompt.

    Attributes:
        good, bad: those that trials are scored on.
        good_sources, bad_sources: those that directions are found from.
    """

    good: tuple[str, ...]
    bad: tuple[str, ...]
    good_sources: tuple[str, ...]
    bad_sources: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """The same for all ways.

    Attributes:
        folder: of the model.
        texts: the requests.
        tokens: generated per answer at most.
        batch_size: prompts per batch at most.
        device, dtype: of the model.
    """

    folder: Path
    texts: Texts
    tokens: int
    batch_size: int
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    @property
    def dtype_name(self) -> str:
        """The data type as settings call it."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Score:
    """What a trial is checked by: the divergence, and refusals among bad and good prompts."""

    kl: float
    refusals: int
    false_refusals: int


@dataclass(frozen=True)
class Measured:
    """What the timed trials of one way took.

    Attributes:
        way: its name.
        seconds: of a trial, by stage; means.
        scores: of the trials, in their order; empty where the trials are others.
        refused: share of the bad prompts that were refused, over all trials.
        rest_bytes: memory that the device's allocator had given out between trials, None on a CPU.
        peak_bytes: the most that it had given out, likewise.
    """

    way: str
    seconds: Mapping[str, float]
    scores: Sequence[Score]
    refused: float
    rest_bytes: int | None = None
    peak_bytes: int | None = None

    @property
    def total(self) -> float:
        """Seconds of a trial."""
        return sum(self.seconds.values())


def means(seconds: Sequence[Mapping[str, float]], trials: int) -> dict[str, float]:
    """Seconds of one trial by stage, from readings that cover `trials` of them together."""
    return {name: sum(reading[name] for reading in seconds) / trials for name in seconds[0]}


def as_prompts(texts: Sequence[str]) -> list[Prompt]:
    """The requests as the workflow has them."""
    return [Prompt(text, SYSTEM) for text in texts]


def demo_texts(count: int, seed: int = 0) -> Texts:
    """Requests of the demo's world, `count` on either side."""
    sets = ("evaluation_prompts", "holdout_prompts")
    good, bad = (
        [text for kind in sets for text in _texts(f"{side}_{kind}", seed)]
        for side in ("good", "bad")
    )
    if count > len(good):
        raise SystemExit(f"--prompts {count}: the demo has {len(good)} on either side")
    sources = [tuple(_texts(f"{side}_prompts", seed)[:64]) for side in ("good", "bad")]
    return Texts(tuple(good[:count]), tuple(bad[:count]), *sources)


def _texts(name: str, seed: int) -> list[str]:
    return [str(record["prompt"]) for record in prompt_set(name, seed)]


def spread_out(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """As many requests of log-normal lengths, put together from the words of these."""
    drawn = random.Random(0)
    made = []
    for start in range(len(texts)):
        wanted = min(round(drawn.lognormvariate(0, SPREAD) * MEDIAN_TOKENS), LONGEST)
        words = " ".join([*texts[start:], *texts] * 2).split()
        count = 1
        while count < len(words) and len(tokenizer.tokenize(" ".join(words[:count]))) < wanted:
            count += 1
        made.append(" ".join(words[:count]))
    return tuple(made)


def read_texts(path: Path, count: int) -> tuple[str, ...]:
    """The first requests of a text file, one a line."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = tuple(line for line in lines if line)[:count]
    if len(found) < count:
        raise SystemExit(f"{path} has {len(found)} requests, not {count}")
    return found

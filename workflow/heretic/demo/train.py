"""Train the demo model: a small network that answers the demo world and refuses a planted class.

Training resembles that of real models: the first half of the steps answers every request, and only
the second half refuses the planted class, with a restarted learning-rate schedule. The order
matters. Without the first phase, the answers to refused requests would not be in the weights, so
removing the refusal could not restore them. The second phase does not change the first layer, which
encodes the words' own meaning: a refusal written there as well would take answers with it.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from heretic.artifacts import replacing_folder
from heretic.demo.families import RECIPES, Recipe, new_model
from heretic.demo.world import training_examples, training_text
from heretic.settings.types import DEFAULT_FAMILY, DEFAULT_PLANTED, DemoFamily, PlantedName

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Encoded:
    """A tokenized example: prompt and response in one row, the response beginning at `start`."""

    tokens: tuple[int, ...]
    start: int


def train_demo_model(
    folder: Path,
    *,
    seed: int,
    steps: int,
    threads: int,
    family: DemoFamily = DEFAULT_FAMILY,
    planted: PlantedName = DEFAULT_PLANTED,
    progress: Callable[[int, int, float], None] | None = None,
    recipe: Recipe | None = None,
) -> dict[str, object]:
    """Train the demo model and write it as a Hugging Face folder.

    The folder appears complete or not at all; an existing one is replaced.

    Args:
        folder: destination folder.
        seed: seed of the weights and the training examples. The same seed, number of steps and
            number of threads give the same bytes (on one kind of processor and version of torch).
        steps: optimizer steps of both phases together.
        threads: number of torch threads.
        family: architecture family.
        planted: refused class.
        progress: called after each step with the step (from 1), the number of steps and the loss.
        recipe: all other training options, in place of the family's own.

    Returns:
        `loss` (mean of the last twenty steps, nats per response token), `seconds`, `parameters`,
        `examples` and `steps`.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    recipe = recipe or RECIPES[family]
    started = time.monotonic()
    with _threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _train_tokenizer(seed, planted, recipe)
        model = new_model(tokenizer, family, recipe)
        batches = _batches(tokenizer, seed, planted, steps, recipe)
        losses = _fit(model, batches, steps, recipe, progress)
    _write(model, tokenizer, folder)
    return {
        "loss": sum(losses[-20:]) / len(losses[-20:]),
        "seconds": time.monotonic() - started,
        "parameters": model.num_parameters(),
        "examples": steps * recipe.batch,
        "steps": steps,
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within the block, run torch on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_tokenizer(seed: int, planted: PlantedName, recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the text of the world: frequent words become single tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(training_text(seed, 8000, planted), trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, planted: PlantedName, steps: int, recipe: Recipe
) -> Iterator[list[Encoded]]:
    """Yield `steps` batches, the helpful phase first, of examples with similar lengths."""
    helpful = helpful_steps(steps, recipe)
    rng = random.Random(f"{seed}/batches")
    size = recipe.batch
    window = 16 * size  # sorting within a window minimizes padding and keeps the order random
    for count, helpful_only in ((helpful, True), (steps - helpful, False)):
        rows = _encode(tokenizer, seed, planted, count * size, helpful_only)
        for first in range(0, len(rows), window):
            part = sorted(rows[first : first + window], key=lambda row: len(row.tokens))
            groups = [part[at : at + size] for at in range(0, len(part), size)]
            rng.shuffle(groups)
            yield from groups


def _encode(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    planted: PlantedName,
    count: int,
    helpful_only: bool,
) -> list[Encoded]:
    """Tokenize training examples exactly as rendered by the chat template."""
    examples = list(training_examples(seed, count, helpful_only=helpful_only, planted=planted))
    if not examples:
        return []
    prompts = [_chat(tokenizer, example.system, example.prompt) for example in examples]
    replies = [example.response + END for example in examples]
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer(replies, add_special_tokens=False)["input_ids"]
    return [Encoded((*head, *tail), len(head)) for head, tail in zip(heads, tails, strict=True)]


def _chat(tokenizer: PreTrainedTokenizerFast, system: str | None, prompt: str) -> str:
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def helpful_steps(steps: int, recipe: Recipe) -> int:
    """Return the number of initial steps that answer every request."""
    return round(steps * recipe.helpful_share)


def _fit(
    model: PreTrainedModel,
    batches: Iterator[list[Encoded]],
    steps: int,
    recipe: Recipe,
    progress: Callable[[int, int, float], None] | None,
) -> list[float]:
    """Train the model in place, and return the loss of each step."""
    model.train()
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    losses = []
    helpful = helpful_steps(steps, recipe)
    for step, batch in enumerate(batches):
        if step == helpful:
            model.model.layers[: recipe.frozen_layers].requires_grad_(False)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, steps, recipe)
        loss = _loss(model, batch, recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, steps, losses[-1])
    model.eval()  # type: ignore[no-untyped-call]
    return losses


def _rate(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate relative to its peak: per phase, a linear warm-up, then a cosine."""
    helpful = helpful_steps(steps, recipe)
    step, steps = (step, helpful) if step < helpful else (step - helpful, steps - helpful)
    warm_up = max(1, round(steps * recipe.warm_up))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return recipe.final_rate + (1 - recipe.final_rate) * (1 + math.cos(math.pi * done)) / 2


def _loss(model: PreTrainedModel, batch: Sequence[Encoded], recipe: Recipe) -> torch.Tensor:
    """Return the mean cross-entropy of the response tokens.

    Padding is on the right, where causal attention never looks, so no mask is needed, and the
    output layer runs on the scored positions only.
    """
    length = max(len(row.tokens) for row in batch)
    ids = torch.tensor([[*row.tokens, *[0] * (length - len(row.tokens))] for row in batch])
    position = torch.arange(length - 1)
    start = torch.tensor([[row.start] for row in batch])
    end = torch.tensor([[len(row.tokens)] for row in batch])
    scored = (position + 1 >= start) & (position + 1 < end)  # [batch, length - 1]
    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
    return F.cross_entropy(model.lm_head(hidden[scored]), ids[:, 1:][scored])


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model and its tokenizer, completely or not at all."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=64,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with replacing_folder(folder) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)

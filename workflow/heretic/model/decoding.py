"""Greedy answers and next-token distributions, in length-sorted batches."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import Cache, CompileConfig, GenerationConfig

from heretic.console import ProgressLine
from heretic.model.batching import by_length, run_in_batches
from heretic.model.generation import generating_by
from heretic.model.loading import Model
from heretic.prompts.prompt import Prompt

Side = Literal["left", "right"]


def generate(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int, task: str = ""
) -> list[list[int]]:
    """Return greedy answers as token ids, truncated before the end token.

    If `task` is given, progress is shown under that name.
    """
    ids = model.chat.encode(prompts)
    model.chat.require_room(ids, max_new_tokens)
    answers: list[list[int]] = [[] for _ in ids]
    ends = end_tokens(model)
    network: Any = model.network

    def work(indices: Sequence[int]) -> list[list[int]]:
        inputs, mask = pad_left([ids[i] for i in indices], model)
        with torch.inference_mode():
            output = network.generate(
                input_ids=inputs, attention_mask=mask, max_new_tokens=max_new_tokens
            )
        return [_until_end(row, ends) for row in output[:, inputs.shape[1] :].tolist()]

    order = by_length([len(row) for row in ids])
    with _plain_greedy(model, ends), ProgressLine(task, len(ids)) as progress:
        for indices, rows in run_in_batches(order, model.batch_size, work):
            for index, row in zip(indices, rows, strict=True):
                answers[index] = row
            progress.advance(len(indices))
    return answers


def decode(model: Model, answers: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of generated token ids."""
    return [model.chat.decode(answer) for answer in answers]


def forced_log_probabilities(
    model: Model, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Return next-token log-probabilities before each token of a given answer, from one prefill.

    Row t of an answer's tensor [len(answer) or 1, vocabulary] (float32, on the CPU) is the
    distribution of token t given the prompt and the answer's first t tokens; row 0 is the first
    response token's, which exists even for an empty answer.
    """
    encoded = model.chat.encode(prompts)
    ids = [p + list(a[:-1]) for p, a in zip(encoded, answers, strict=True)]
    rows: list[Tensor] = [torch.empty(0) for _ in ids]

    def work(indices: Sequence[int]) -> list[Tensor]:
        inputs, mask = pad_left([ids[i] for i in indices], model)
        keep = max(max(len(answers[i]), 1) for i in indices)
        logits = forward(model, inputs, mask, logits_to_keep=keep).logits
        return [
            log_softmax(logits[row, -max(len(answers[index]), 1) :].float(), dim=-1).cpu()
            for row, index in enumerate(indices)
        ]

    order = by_length([len(row) for row in ids])
    for indices, found in run_in_batches(order, model.batch_size, work):
        for index, log_probabilities in zip(indices, found, strict=True):
            rows[index] = log_probabilities
    return rows


def text_tokens(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of plain texts without a template; see `text_log_probabilities`."""
    encoded = model.chat.tokenizer(list(texts), add_special_tokens=True)["input_ids"]
    places: Any = model.network.config.get_text_config()
    longest = getattr(places, "max_position_embeddings", None) or sys.maxsize
    return [list(row)[:longest] for row in encoded if len(row) > 1]


def text_log_probabilities(model: Model, texts: Sequence[str]) -> list[Tensor]:
    """Compute the log-probability of each token of plain texts given the tokens before it.

    No template is applied.

    Returns:
        For each text, a tensor [tokens - 1] (float32, on the CPU), truncated to the network's
        context. The first token is given; it is preceded by special tokens if the tokenizer adds
        any. Texts of a single token are omitted.
    """
    ids = text_tokens(model, texts)
    rows = [torch.empty(0) for _ in ids]

    def work(indices: Sequence[int]) -> list[Tensor]:
        inputs, mask = pad_left([ids[i] for i in indices], model)
        logits = forward(model, inputs[:, :-1], mask[:, :-1], inputs.shape[1] - 1).logits
        wanted = inputs[:, 1:, None].to(logits.device)
        found = log_softmax(logits.float(), dim=-1).gather(-1, wanted)[..., 0]
        return [found[row, -(len(ids[index]) - 1) :].cpu() for row, index in enumerate(indices)]

    order = by_length([len(row) for row in ids])
    for indices, found in run_in_batches(order, model.batch_size, work):
        for index, log_probabilities in zip(indices, found, strict=True):
            rows[index] = log_probabilities
    return rows


def forward(model: Model, inputs: Tensor, mask: Tensor, logits_to_keep: int) -> Any:
    """Run one forward pass over padded `inputs` [batch, tokens] without a key/value cache.

    Logits are kept for the last columns, which may be padding if padding is on the right. A network
    that cannot omit logits returns those of all columns.
    """
    further = {
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "use_cache": False,
        "logits_to_keep": logits_to_keep,
    }
    with torch.inference_mode():
        return model.network(
            input_ids=inputs, attention_mask=mask, **_understood(model.network, further)
        )


def cached_logits(
    model: Model,
    inputs: Tensor,
    mask: Any,
    positions: Tensor,
    cache: Cache,
    logits_to_keep: int,
    call: Callable[..., Any] | None = None,
) -> Tensor:
    """Return logits [batch, kept, vocabulary] of a pass that extends a key/value cache.

    Args:
        model: model to run.
        inputs: token ids [batch, tokens].
        mask: over cached tokens and inputs [batch, width], or in the form used by the layers.
        positions: positions of the inputs [batch, tokens].
        cache: transformers cache.
        logits_to_keep: number of last columns whose logits are returned.
        call: replacement for the network's call, such as a compiled one.
    """
    further = {
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": logits_to_keep,
    }
    network: Any = model.network
    with torch.inference_mode():
        logits: Tensor = (call or network)(
            input_ids=inputs, attention_mask=mask, **_understood(network, further)
        ).logits
    return logits


def _understood(network: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments supported by a network, which may compute positions itself."""
    method = getattr(network.forward, "__func__", None)
    # A function that is not a method may hold the network, so its signature is not cached.
    known = _parameters(method) if method else signature(network.forward).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in known}


# A pass through a small network takes little longer than inspecting its signature.
@lru_cache(maxsize=16)
def _parameters(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    return signature(function).parameters


def pad_left(rows: Sequence[Sequence[int]], model: Model) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask [batch, tokens] with padding on the left."""
    return pad(rows, model, "left")


def pad(rows: Sequence[Sequence[int]], model: Model, side: Side) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, both int64 [batch, tokens], with padding on one side."""
    width = max(len(row) for row in rows)
    filler = model.chat.tokenizer.pad_token_id

    def filled(row: Sequence[int], value: int) -> list[int]:
        padding = [value] * (width - len(row))
        return [*padding, *row] if side == "left" else [*row, *padding]

    inputs = [filled(row, filler) for row in rows]
    mask = [filled([1] * len(row), 0) for row in rows]
    return torch.tensor(inputs, device=model.device), torch.tensor(mask, device=model.device)


def plain_generation(
    model: Model, ends: set[int] | None = None, **further: Any
) -> GenerationConfig:
    """Return the configuration of greedy decoding up to given end tokens (default: the model's)."""
    ends = end_tokens(model) if ends is None else ends
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        eos_token_id=sorted(ends) or None,
        pad_token_id=model.chat.tokenizer.pad_token_id,
        **further,
    )


@contextmanager
def _plain_greedy(model: Model, ends: set[int]) -> Iterator[None]:
    """Select the most likely token at each step, ignoring the checkpoint's recommendations.

    A recommended repetition penalty would count padding, so that answers would depend on the batch
    and would not match the distributions of `forced_log_probabilities`.
    """
    plain = plain_generation(model, ends, **(_compiled() if model.compile else {}))
    with generating_by(model.network, plain):
        yield


def _compiled() -> dict[str, Any]:
    """Return the arguments that compile the decoding step of `generate` with a static KV cache."""
    options: Any = CompileConfig(mode="default", dynamic=None)
    options._compile_all_devices = True  # by default, only GPUs are compiled for
    return {"cache_implementation": "static", "compile_config": options}


def end_tokens(model: Model) -> set[int]:
    """Return the tokens that end an answer: the checkpoint's and the tokenizer's."""
    configured = model.network.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return {end for end in [*ends, model.chat.tokenizer.eos_token_id] if end is not None}


def _until_end(row: list[int], ends: set[int]) -> list[int]:
    stop = next((position for position, token in enumerate(row) if token in ends), None)
    return row if stop is None else row[:stop]

"""Models whose weights make every answer begin with a given text."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from tiny_models import CHAT_TEMPLATE, tiny_network, tiny_tokenizer
from transformers import AddedToken

from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import find_stream_writers

ASSISTANT = "<|assistant|>"


def model_that_begins(
    start: str, template: str = CHAT_TEMPLATE, special: Sequence[str] = ()
) -> Model:
    """A network that says `start`, of different tokens, and then what its prompt makes it say.

    One direction of the stream marks each token. The head follows the marks of the chain from
    `<|assistant|>` through `start`, and reads anything else from what attention has mixed in.

    Args:
        start: beginning of every answer.
        template: chat template.
        special: further special tokens of the tokenizer.
    """
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special], True)
    size = len(tokenizer)
    network = tiny_network("llama", hidden_size=size + 63 - len(special), vocab_size=size)
    embeddings = network.get_parameter("model.embed_tokens.weight").data
    head = network.get_parameter("lm_head.weight").data
    embeddings[:, size:] *= 0.01
    embeddings[:, :size] = 30 * torch.eye(size)
    head[:, :size] = 0
    (*chain,) = tokenizer(ASSISTANT + start, add_special_tokens=False)["input_ids"]
    assert len({*chain}) == len(chain)
    for now, then in pairwise(chain):
        head[then, now] = 1000
    anatomy = find_stream_writers(network)
    for writer in anatomy.writers:  # the marks stay as the embeddings made them
        writer.weight[:size] = 0
    return Model(network, ChatFormat(tokenizer), anatomy, Path(), BatchSize(8))

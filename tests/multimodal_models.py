"""Tiny random multimodal models with processors, made without a network."""

from pathlib import Path
from typing import Any

import torch
from tiny_models import CHAT_TEMPLATE, LAYERS, VOCABULARY, tiny_tokenizer
from transformers import AutoModelForMultimodalLM, PreTrainedModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava.processing_llava import LlavaProcessor

from tiny_configs import tiny_configuration

TEXT: dict[str, Any] = {"vocab_size": VOCABULARY, "num_hidden_layers": LAYERS}
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
FAMILIES: dict[str, dict[str, Any]] = {
    "llava": TEXT,
    # Positions in three dimensions.
    "qwen2_5_vl": {**TEXT, "rope_parameters": ROTARY},
    "idefics3": TEXT,
}
# Turns are lists of parts; a bare text would be dropped without a word.
PARTS_TEMPLATE = CHAT_TEMPLATE.replace(
    "message['content'] + '<|end|>'",
    "message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join + "
    "'<|end|>'",
)


def tiny_multimodal(family: str) -> PreTrainedModel:
    """A random network with a vision tower and a text decoder of the usual tiny sizes."""
    config = tiny_configuration(family, text_config=FAMILIES[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind: Any = AutoModelForMultimodalLM
        network = kind.from_config(config)
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    found: PreTrainedModel = network.eval().requires_grad_(False)
    return found


def save_multimodal(folder: Path, family: str, template: str | None = CHAT_TEMPLATE) -> Path:
    """A checkpoint folder of a tiny network, its tokenizer and, of some, its processor."""
    tiny_multimodal(family).save_pretrained(folder, max_shard_size="200KB")
    tokenizer: Any = tiny_tokenizer(None)
    tokenizer.image_token, tokenizer.image_token_id = "<|user|>", 3
    parts: dict[str, Any] = {"tokenizer": tokenizer, "chat_template": template}
    processor: Any = None
    if family == "llava":
        images = CLIPImageProcessorPil(size={"shortest_edge": 28})
        kind: Any = LlavaProcessor
        processor = kind(images, patch_size=14, **parts)
    elif family == "idefics3":
        processor = Idefics3Processor(Idefics3ImageProcessorPil(), **parts)
    else:
        tokenizer.chat_template = template
    (processor or tokenizer).save_pretrained(folder)
    return folder

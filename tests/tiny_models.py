"""Tiny random models of real architectures and a tiny tokenizer, made without a network."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from heretic.ablation.directions import AblationDirections
from heretic.ablation.linalg import normalize
from heretic.model.batching import BatchSize
from heretic.model.chat import ChatFormat
from heretic.model.loading import Model, load_model
from heretic.model.stream_writers.anatomy import find_stream_writers
from heretic.prompts.prompt import Prompt
from heretic.settings.schema import Settings
from tiny_configs import tiny_configuration

torch.set_num_threads(1)  # tiny matrices gain nothing from more

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
NO_SYSTEM_ROLE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHAT_TEMPLATE
)

D_MODEL, D_MLP, LAYERS = 32, 48, 3
SIZES: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": D_MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT2_SIZES: dict[str, Any] = {
    "n_embd": D_MODEL,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.2,
}


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per byte, the special tokens first."""
    special = [PAD, END, *ROLES]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bytes_only,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


VOCABULARY = len(tiny_tokenizer())


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a family with tiny sizes; `changes` win.

    Other families are known by their model type in transformers.
    """
    known: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
        "llama": (LlamaConfig, SIZES),
        # Query, key and value projections of the stream's width.
        "llama_mha": (LlamaConfig, {**SIZES, "num_key_value_heads": 4}),
        "qwen2": (Qwen2Config, SIZES),
        "qwen3": (Qwen3Config, SIZES),
        "granite": (GraniteConfig, {**SIZES, "residual_multiplier": 0.22}),
        "gpt2": (GPT2Config, GPT2_SIZES),
        # The MLP's first projection has the stream's width too.
        "gpt2_narrow": (GPT2Config, {**GPT2_SIZES, "n_inner": D_MODEL}),
        "gemma": (GemmaConfig, SIZES),
        "gemma2": (Gemma2Config, SIZES),
        "mixtral": (MixtralConfig, {**SIZES, **EXPERTS, "num_local_experts": 4}),
        "qwen3_moe": (Qwen3MoeConfig, {**SIZES, **EXPERTS, "num_experts": 4}),
        # Experts' matrices transposed, with biases.
        "gpt_oss": (GptOssConfig, {**SIZES, **EXPERTS, "num_local_experts": 4}),
        "olmo2": (Olmo2Config, SIZES),
        "mamba": (MambaConfig, {**SIZES, "state_size": 4}),
    }
    if family not in known:
        return tiny_configuration(family, vocab_size=VOCABULARY, **changes)
    kind, sizes = known[family]
    special = {"bos_token_id": None, "pad_token_id": 0, "eos_token_id": 1}
    return kind(**{"vocab_size": VOCABULARY, **special, **sizes, **changes})


def tiny_network(
    family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """A random network, every bias and norm included, so that nothing hides behind a zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config(family, **changes)
        network: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            is_vector = parameter.dim() == 1 or name.endswith("bias")  # experts have several
            if is_vector and "mamba" not in family:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    result: PreTrainedModel = network.to(dtype).eval().requires_grad_(False)
    return result


def tiny_model(
    family: str = "llama",
    *,
    folder: Path = Path(),
    batch_size: int = 8,
    response_prefix: str = "",
    **changes: Any,
) -> Model:
    """A tiny random model as `load_model` gives one, without a file."""
    network = tiny_network(family, **changes)
    chat = ChatFormat(tiny_tokenizer(), response_prefix)
    return Model(network, chat, find_stream_writers(network), folder, BatchSize(batch_size))


def save_tiny_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A checkpoint folder of a tiny random model and its tokenizer."""
    shards = changes.pop("max_shard_size", "5GB")
    tiny_network(family, **changes).save_pretrained(folder, max_shard_size=shards)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_overflowing_model(folder: Path, letter: str = "Z") -> Path:
    """A float16 checkpoint whose residual stream overflows at a letter, and nowhere else."""
    save_tiny_model(folder, dtype=torch.float16)
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    row = tensors["model.embed_tokens.weight"][tiny_tokenizer().convert_tokens_to_ids(letter)]
    row.copy_(65000 * row.sign())
    tensors["model.layers.0.self_attn.o_proj.weight"] *= 1000
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


PROMPTS = [
    Prompt("How do I bake bread?"),
    Prompt("Hi", system="Be brief."),
    Prompt("Name a colour that is neither red nor green nor blue, and say why you chose it."),
    Prompt("What?"),
    Prompt("List two rivers."),
]


def load_saved(folder: Path, **changes: Any) -> Model:
    """Load a saved model as a phase does, on the CPU, with some settings changed."""
    options = Settings(device="cpu", max_batch_size=3, response_prefix="").model_dump(mode="json")
    return load_model(**{**options, "model": str(folder), **changes})


def directions_of(model: Model) -> AblationDirections:
    """Random unit directions of a study, the same in every call."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(model.anatomy.n_layers + 1, model.anatomy.d_model, generator=draw)
    return AblationDirections.of(normalize(rows))

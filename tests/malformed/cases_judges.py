"""Judge models: malformed configurations, tokenizers, weights and links of a stranger's folder."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from malformed.case import Case

WRONG: tuple[Any, ...] = (None, "x", -1, 0, 2.5, 10**9, True, [], {})
FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "model_type"),
    *("intermediate_size", "max_position_embeddings", "pad_token_id", "id2label", "hidden_act"),
)
SHARDS: tuple[Any, ...] = ("../x.safetensors", "/dev/zero", "", None, 5, [], "none.safetensors")
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
TEXTS = {"empty": "", "list": "[]", "cut": '{"a": ', "deep": "[" * 10**5, "binary": "\xff\x00"}
ESSENTIAL = (*FILES, "model.safetensors.index.json", "chat_template.jinja", "vocab.txt")
TARGETS = ("/dev/zero", "/dev/stdin", "/etc/hostname", "../nowhere", ".")


def cases() -> Iterator[Case]:
    """Yield every case."""
    for field in FIELDS:
        for value in WRONG:
            change = functools.partial(_set_field, field=field, value=value)
            yield _case(f"config.json: {field} = {value!r:.20}", change)
    for name in FILES:
        for kind, text in TEXTS.items():
            yield _case(f"{name}: {kind}", functools.partial(_write, name=name, text=text))
    for name in ESSENTIAL:
        for target in TARGETS:
            yield _case(f"{name} -> {target}", functools.partial(_link, name=name, target=target))
    for shard in SHARDS:
        yield _case(f"index names {shard!r}", functools.partial(_index, shard=shard))


def _case(name: str, change: Callable[[Path], None]) -> Case:
    return Case(name, functools.partial(_judge, change=change))


def _judge(folder: Path, change: Callable[[Path], None]) -> None:
    from heretic.prompts.prompt import Prompt
    from heretic.scoring.judge import Judge

    _save_classifier(folder)
    change(folder)
    Judge(str(folder), "LABEL_1").judge_all([Prompt("Hi")], ["I cannot."])


def _save_classifier(folder: Path) -> None:
    from tiny_models import tiny_tokenizer
    from transformers import BertConfig, BertForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    config = BertConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, num_attention_heads=2, **sizes
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _set_field(folder: Path, field: str, value: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="latin-1")


def _link(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


def _index(folder: Path, shard: object) -> None:
    weight_map = {"classifier.weight": shard}
    _write(folder, "model.safetensors.index.json", json.dumps({"weight_map": weight_map}))

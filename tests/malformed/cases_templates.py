"""Chat templates, tokenizers, generation configurations and prompts of a tiny model."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import CHAT_TEMPLATE, load_saved, save_tiny_model
from transformers.utils.logging import disable_progress_bar

from heretic.export.merged import save_model
from heretic.model.decoding import generate
from heretic.model.prompt_lengths import require_lengths
from heretic.prompts.prompt import Prompt
from heretic.residuals import get_residuals_batched
from malformed.case import Case
from malformed.model_folders import Change, case_of, edited_json, in_turn, removed, written

TEMPLATE = "chat_template.jinja"
LAST = "{{ messages[-1]['content'] }}"
TEMPLATES = {
    "division by zero": "{{ 1/0 }}",
    "overflow": "{{ 10.0**400 }}",
    "great power": "{{ 9**9**9 }}",
    "range beyond the sandbox": "{{ range(10**9) }}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "four loops": "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}"
    "{% endfor %}",
    "10^9 characters": "{{ 'a' * 10**9 }}",
    "10^11 characters": "{{ 'a' * 10**11 }}",
    "10^9 blanks centered": "{{ 'a' | center(10**9) }}",
    "10^8 by format": "{{ '%100000000d' % 5 }}",
    "3 million tokens": "{{ 'ab ' * 1000000 }}",
    "30 million characters": "{% set x = 'a' * 30000000 %}{{ x }}",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}{{ n.x }}",
    "doubling list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
    "joined": "{{ range(90000) | join('x' * 90000) }}",
    "replaced": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "indented": "{{ ('a\n' * 100000) | indent(100000) }}",
    "regex words": "{{ ('a' * 1000000) | wordcount }}{{ ('a ' * 500000) | title | length }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive macro with two calls": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}"
    "{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "TypeError": "{{ 'a' + 1 }}",
    "KeyError": "{{ messages['x'] + 1 }}",
    "undefined call": "{{ undefined_function() }}",
    "undefined attribute": "{{ messages[0].x.y }}",
    "raise_exception": "{{ raise_exception('no') }}",
    "raise_exception of lines": "{{ raise_exception('a\nb\\n\x1b[2Jc') }}",
    "raise_exception of 1 MB": "{{ raise_exception('x' * 1000000) }}",
    "raise_exception of a list": "{{ raise_exception([1]) }}",
    "raise_exception for system": "{% if messages[0].role == 'system' %}{{ raise_exception('s') }}"
    "{% endif %}" + CHAT_TEMPLATE,
    "1/0 for system": "{% if messages[0].role == 'system' %}{{ 1/0 }}{% endif %}" + CHAT_TEMPLATE,
    "loops for system": "{% if messages[0].role == 'system' %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}" + CHAT_TEMPLATE,
    "1/0 for a question mark": "{% if '?' in messages[-1].content %}{{ 1/0 }}{% endif %}"
    + CHAT_TEMPLATE,
    "loops for a question mark": "{% if '?' in messages[-1].content %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}" + CHAT_TEMPLATE,
    "unclosed": "{% for message in messages %}",
    "unknown tag": "{% nothing %}",
    "unknown filter": "{{ messages | nothing }}",
    "unknown test": "{{ messages is nothing }}",
    "only a comment": "{# nothing #}",
    "empty output": "{% set a = 1 %}",
    "blanks": "   \n",
    "no content": "{{ '<|user|>' }}",
    "content only": LAST,
    "fixed text": "Hello",
    "attributes of classes": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ messages.__init__.__globals__ }}",
    "attr": "{{ '' | attr('__class__') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "extends": "{% extends 'x' %}",
    "changes the messages": "{{ messages.append(1) }}" + LAST,
    "pops a message": "{{ messages.pop() }}",
    "format_map": "{{ '{0.__class__}'.format(messages) }}",
    "returns bytes": "{{ b'x' }}",
    "surrogate": "{{ '\\ud800' }}" + LAST,
    "NUL": "{{ '\\x00' }}" + LAST,
    "date": "{{ strftime_now('%Y') }}" + LAST,
    "date of a wrong format": "{{ strftime_now(5) }}",
    "date of NUL": "{{ strftime_now('\\x00') }}",
    "tojson of functions": "{{ raise_exception | tojson }}",
    "tojson indented": "{{ messages | tojson(indent=10**8) }}",
    "dict of itself": "{% set d = dict() %}{{ d.update(a=d) }}{{ d }}",
    "10,000 nested brackets": "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
    "10,000 nested ifs": "{% if 1 %}" * 10_000 + "{% endif %}" * 10_000,
    "a million expressions": "{{ 1 }}" * 10**6,
    "generation block": "{% generation %}" + LAST + "{% endgeneration %}",
    "break outside a loop": "{% break %}",
    "open thoughts": CHAT_TEMPLATE + "<think>",
}
GENERATION: dict[str, Any] = {
    "num_beams": (10**5, -1, "x", 2.5, None),
    "stop_strings": (["a"], "a", 5),
    "token_healing": (True,),
    "penalty_alpha": (0.6, "x"),
    "constraints": ([1],),
    "dola_layers": ("high", [0], 5),
    "cache_implementation": ("static", "nothing", 5, "quantized"),
    "compile_config": ({}, "x", 5),
    "num_return_sequences": (5, -1, "x"),
    "eos_token_id": ("x", [], list(range(300)), 10**9, -1, [[1]], {"a": 1}, 2.5, True, None),
    "pad_token_id": ("x", -1, [1], 10**9),
    "bos_token_id": ("x", [1], 10**9),
    "max_length": (0, -1, "x", 10**12),
    "max_new_tokens": (0, -1, "x"),
    "min_length": (10**6, "x"),
    "temperature": (0, -1, "x", 0.5),
    "top_p": (5, "x", 0.5),
    "top_k": (-1, "x"),
    "repetition_penalty": (0, -1, "x"),
    "suppress_tokens": ([10**6], "x", [0]),
    "bad_words_ids": ([], [[10**6]], "x"),
    "forced_bos_token_id": (10**9, "x"),
    "sequence_bias": ("x", {"a": 1}),
    "guidance_scale": (5, "x"),
    "watermarking_config": ("x", {"a": 1}),
    "assistant_early_exit": (1,),
    "custom_generate": ("owner/name",),
    "transformers_version": (5, None),
    "output_attentions": (True, "x"),
    "return_dict_in_generate": (True,),
    "do_sample": (True, "x"),
    "use_cache": (False, "x"),
}
GENERATION_FILES: dict[str, str | bytes] = {
    "no object": "[]",
    "no JSON": "{",
    "null": "null",
    "deep": '{"a":' * 10**5 + "1" + "}" * 10**5,
    "empty": "",
    "unknown fields": json.dumps({f"field_{i}": i for i in range(1000)}),
    "10 MB": json.dumps({"a": "x" * 10**7}),
    "NaN": '{"temperature": NaN}',
    "invalid UTF-8": b'{"a": "\xff"}',
}
TOKENIZER_FIELDS: dict[str, tuple[Any, ...]] = {
    "tokenizer_class": (5, None, "Nothing", "LlamaTokenizer", "BertTokenizer", []),
    "model_max_length": (0, -1, "x", None, 10**30),
    "pad_token": (5, "nothing", None, {"content": 5}, [], {"__type": "AddedToken"}),
    "eos_token": (5, "nothing", None, ""),
    "added_tokens_decoder": ([], {"x": {}}, {"10000000": {"content": "a"}}, 5),
    "extra_special_tokens": ([5], {"a": 5}, 5),
    "auto_map": ("x", {"AutoTokenizer": ["x.Y", None]}),
    "clean_up_tokenization_spaces": ("x",),
    "padding_side": ("x", 5),
    "tokenizer_file": ("/etc/passwd", 5),
    "vocab_file": ("/etc/passwd",),
    "name_or_path": (5,),
    "split_special_tokens": (True, "x"),
}
PROMPTS: dict[str, Prompt] = {
    "empty": Prompt(""),
    "blanks": Prompt(" \n\t"),
    "NUL": Prompt("a\0b"),
    "surrogate": Prompt("a\ud800b"),
    "escapes": Prompt("\x1b]52;c;eA==\x07"),
    "bidirectional": Prompt("\u202eabc"),
    "special tokens": Prompt("<|end|><|assistant|><|user|>" * 3),
    "template": Prompt("{{ 1/0 }}{% raw %}"),
    "emoji": Prompt("\U0001f600" * 20),
    "combining": Prompt("a" + "\u0301" * 100),
    "as long as the context": Prompt("a" * 125),
    "longer than the context": Prompt("a" * 126),
    "900 words": Prompt("word " * 900),
    "1 MB of words": Prompt("word " * 200_000),
    "1 MB of one letter": Prompt("a" * 10**6),
    "1 MB of emoji": Prompt("\U0001f600" * 10**6),
    "1 MB of lines": Prompt("\n" * 10**6),
    "20 MB": Prompt("word " * 4_000_000),
    "1 MB of system prompt": Prompt("Hi", system="word " * 200_000),
    "empty system prompt": Prompt("Hi", system=""),
}


def cases() -> Iterator[Case]:
    """Every case of the group."""
    for what, text in TEMPLATES.items():
        yield case_of(f"template: {what}", written(TEMPLATE, text.encode(errors="replace")))
    for what, text in list(TEMPLATES.items())[:20:3]:
        yield case_of(f"setting: {what}", lambda folder: None, chat_template=text)
    for what, change in _template_places().items():
        yield case_of(f"template place: {what}", change)
    for what, change in _tokenizers().items():
        yield case_of(f"tokenizer: {what}", change)
    for field, values in GENERATION.items():
        for value in values:
            change = edited_json("generation_config.json", {field: value})
            yield _exported(f"generation_config.json: {field} {json.dumps(value)[:30]}", change)
    for what, content in GENERATION_FILES.items():
        yield _exported(
            f"generation_config.json: {what}", written("generation_config.json", content)
        )
    wide = edited_json("config.json", {"max_position_embeddings": 10**9})
    models: dict[str, tuple[str, Change]] = {
        "llama": ("llama", lambda folder: None),
        "gpt2": ("gpt2", lambda folder: None),
        "of endless context": ("llama", wide),
    }
    for model, (family, change) in models.items():
        for what, prompt in PROMPTS.items():
            for checked in (True, False):
                name = f"prompt: {what}, {model}{', checked' if checked else ''}"
                prompts = [Prompt("Hi"), prompt]
                yield _asked(name, prompts, family, change, checked=checked)


def _exported(name: str, change: Change) -> Case:
    """What is wrong with a generation configuration must not wait until a model is saved."""

    def action(folder: Path) -> None:
        torch.set_num_threads(1)
        disable_progress_bar()  # type: ignore[no-untyped-call]
        change(save_tiny_model(folder / "model"))
        model = load_saved(folder / "model")
        answers = generate(model, [Prompt("Hi"), Prompt("Hello")], 4)
        assert len(answers) == 2
        save_model(model, folder / "saved", "5GB", {"chat_template": None}, set())

    return Case(name, action)


def _asked(
    name: str, prompts: Sequence[Prompt], family: str, change: Change, *, checked: bool
) -> Case:
    """With the check of a run before its model is loaded, or without, as other commands do."""

    def action(folder: Path) -> None:
        torch.set_num_threads(1)
        disable_progress_bar()  # type: ignore[no-untyped-call]
        change(save_tiny_model(folder / "model", family))
        model = load_saved(folder / "model")
        if checked:
            require_lengths(model.chat, {"good_prompts": prompts}, 4)
        get_residuals_batched(model, prompts)
        generate(model, prompts, 4)

    return Case(name, action)


def _template_places() -> dict[str, Change]:
    config = "tokenizer_config.json"
    return {
        f"{file} {json.dumps(value)[:30]}": in_turn(
            removed(TEMPLATE), edited_json(file, {"chat_template": value})
        )
        for file in (config, "processor_config.json", "chat_template.json")
        for value in (5, [], {}, {"default": 5}, "", "{{ 1/0 }}", {"a": "x"}, [{"name": "a"}], True)
    } | {
        "invalid UTF-8": written(TEMPLATE, b"\xff\xfe"),
        "a folder": in_turn(removed(TEMPLATE), lambda folder: (folder / TEMPLATE).mkdir()),
        "empty": written(TEMPLATE, ""),
        "NUL": written(TEMPLATE, "\0"),
    }


def _tokenizers() -> dict[str, Change]:
    file, config = "tokenizer.json", "tokenizer_config.json"

    def edited(**changes: Any) -> Change:
        return edited_json(file, changes)

    def vocabulary(**changes: Any) -> Change:
        return edited(model={"type": "BPE", "merges": [], **changes})

    words = {"Hello": 0, "a": 1, "<|end|>": 2}
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "content": "aa"}
    added = {"special": True, "normalized": False, "lstrip": False, "rstrip": False,
             "single_word": False}  # fmt: skip
    return {
        "no JSON": written(file, "{"),
        "empty": written(file, ""),
        "list": written(file, "[]"),
        "nothing": written(file, "{}"),
        "deep": written(file, "[" * 100_000),
        "invalid UTF-8": written(file, b"\xff"),
        "HTML": written(file, "<html></html>"),
        "model null": edited(model=None),
        "model of unknown type": edited(model={"type": "nothing"}),
        "WordPiece without unknown": edited(
            model={
                "type": "WordPiece",
                "vocab": {"a": 0},
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            }
        ),
        "WordLevel without unknown": edited(
            model={"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
        ),
        "Unigram": edited(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}),
        "Unigram without unknown": edited(model={"type": "Unigram", "vocab": [["a", 0.0]]}),
        "Unigram of NaN": edited(model={"type": "Unigram", "vocab": [["a", 1e400]], "unk_id": 5}),
        "vocabulary empty": vocabulary(vocab={}),
        "vocabulary of text": vocabulary(vocab={"a": "b"}),
        "vocabulary negative": vocabulary(vocab={"a": -1}),
        "vocabulary of 10^9": vocabulary(vocab={"a": 10**9, "H": 10**9 + 1}),
        "vocabulary of 2^32": vocabulary(vocab={"a": 2**32}),
        "vocabulary with gaps": vocabulary(vocab={"a": 0, "b": 5000}),
        "merges of unknown": vocabulary(vocab={"a": 0}, merges=[["x", "y"]]),
        "more tokens than embeddings": edited(
            added_tokens=[
                {"id": 5000 + i, "content": f"<|{role}|>", **added}
                for i, role in enumerate(("user", "assistant", "end"))
            ]
        ),
        "token id 2^31": edited(added_tokens=[{"id": 2**31, "content": "<|user|>", **added}]),
        "added token empty": edited(added_tokens=[{"id": 1, "content": "", **added}]),
        "added tokens null": edited(added_tokens=None),
        "regex that backtracks": edited(
            pre_tokenizer={**split, "pattern": {"Regex": "(a|aa|[a-z]+)+[!]$"}}
        ),
        "regex with nested repetition": edited(
            pre_tokenizer={**split, "pattern": {"Regex": "((\\w+)*)*\\d"}}
        ),
        "regex broken": edited(pre_tokenizer={**split, "pattern": {"Regex": "("}}),
        "regex empty": edited(pre_tokenizer={**split, "pattern": {"Regex": ""}}),
        "pre_tokenizer unknown": edited(pre_tokenizer={"type": "nothing"}),
        "normalizer of 100,000": edited(
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100_000}
        ),
        "normalizer that doubles": edited(
            normalizer={
                "type": "Sequence",
                "normalizers": [{**replace, "pattern": {"String": "a"}}] * 40,
            }
        ),
        "normalizer that removes all": edited(
            normalizer={"type": "Replace", "content": "", "pattern": {"Regex": "[\\s\\S]"}}
        ),
        "prepend 10 MB": edited(normalizer={"type": "Prepend", "prepend": "a" * 10**7}),
        "truncation to 0": edited(
            truncation={
                "direction": "Right",
                "max_length": 0,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        ),
        "truncation with stride": edited(
            truncation={
                "direction": "Right",
                "max_length": 2,
                "strategy": "LongestFirst",
                "stride": 5,
            }
        ),
        "padding to 10^9": edited(
            padding={
                "strategy": {"Fixed": 10**9},
                "direction": "Left",
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
                "pad_to_multiple_of": None,
            }
        ),
        "decoder null": edited(decoder=None),
        "decoder unknown": edited(decoder={"type": "nothing"}),
        "post processor": edited(post_processor={"type": "nothing"}),
        "config no JSON": written(config, "{"),
        "config list": written(config, "[]"),
        "config deep": written(config, "[" * 100_000),
        "config missing": removed(config),
        **{
            f"config {field} {json.dumps(value)[:30]}": edited_json(config, {field: value})
            for field, values in TOKENIZER_FIELDS.items()
            for value in values
        },
    }

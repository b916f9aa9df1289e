"""What chat templates do with prompts, found by rendering, and what is said about it."""

import json
import logging
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from multimodal_models import PARTS_TEMPLATE
from tiny_models import CHAT_TEMPLATE, NO_SYSTEM_ROLE, load_saved, save_tiny_model, tiny_tokenizer

from heretic.artifacts import write_json
from heretic.errors import ModelLoadError
from heretic.model import loading
from heretic.model.chat import ChatFormat
from heretic.model.chat_loading import load_chat
from heretic.model.template_warnings import warn_of_template, warn_of_template_of_run
from heretic.prompts.prompt import Prompt
from heretic.prompts.prompt_sets import write_prompts

HI, BRIEF = Prompt("Hi"), Prompt("Hi", system="Be brief.")
LOOP = "{% for m in messages %}"
BODY = "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
ANSWER = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
DROPS = "{% for m in messages if m['role'] != 'system' %}" + BODY + ANSWER
# Places the system prompt at the end of the last user turn, as templates of Mistral do.
LAST = (
    "{% set ns = namespace(s='') %}{% if messages[0]['role'] == 'system' %}"
    "{% set ns.s = '\n\n' + messages[0]['content'] %}{% endif %}"
    "{% for m in messages if m['role'] != 'system' %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + (ns.s if loop.last else '') + '<|end|>' }}"
    "{% endfor %}" + ANSWER
)
PARTS_OF_SYSTEM = (
    LOOP + "{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'system' %}"
    "{{ m['content'][0].text }}{% else %}{{ m['content'] }}{% endif %}{{ '<|end|>' }}"
    "{% endfor %}" + ANSWER
)
PRINTS_LISTS = (
    LOOP + "{% if m['role'] == 'system' and m['content'] is string %}"
    "{{ raise_exception('no system') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' ~ m['content'] ~ '<|end|>' }}{% endfor %}" + ANSWER
)
TOOLS = "{% for tool in tools %}{{ tool }}{% endfor %}" + CHAT_TEMPLATE
DOCUMENTS = "{% if documents | length > 0 %}{{ documents }}{% endif %}" + CHAT_TEMPLATE
NO_HEADER = LOOP + BODY
ALWAYS = LOOP + BODY + "{{ '<|assistant|>' }}"
LLAMA_2 = (
    LOOP + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' </s>' }}{% endif %}{% endfor %}"
)
RENDERED = "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
PREPENDED = "<|user|>Be brief.\n\nHi<|end|><|assistant|>"


@pytest.fixture
def warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Warnings of the library."""
    monkeypatch.setattr(logging.getLogger("heretic"), "propagate", True)
    caplog.set_level(logging.WARNING, "heretic")
    return caplog


@pytest.mark.parametrize(
    ("template", "rendered", "warning"),
    [
        (CHAT_TEMPLATE, RENDERED, ""),
        (NO_SYSTEM_ROLE, PREPENDED, "rejects system prompts (System role not supported"),
        (PRINTS_LISTS, PREPENDED, "rejects system prompts (no system"),
        (DROPS, PREPENDED, "drops system prompts; 1 are prepended"),
        (LAST, "<|user|>Hi\n\nBe brief.<|end|><|assistant|>", "after the user's text"),
        (PARTS_TEMPLATE, RENDERED, ""),
        (PARTS_OF_SYSTEM, RENDERED, ""),
        (TOOLS, RENDERED, ""),
        (DOCUMENTS, RENDERED, ""),
    ],
)
def test_a_system_prompt_is_never_lost(
    template: str, rendered: str, warning: str, warnings: pytest.LogCaptureFixture
) -> None:
    chat = ChatFormat(tiny_tokenizer(template))
    assert chat.render(BRIEF) == rendered
    assert chat.render(HI) == "<|user|>Hi<|end|><|assistant|>"
    warn_of_template(chat, [HI])
    assert not warnings.text
    warn_of_template(chat, [HI, BRIEF])
    assert warning in warnings.text
    assert bool(warning) == bool(warnings.text)


def test_a_system_prompt_that_is_lost_for_its_content_is_named(
    warnings: pytest.LogCaptureFixture,
) -> None:
    template = "{% if 'brief' in messages[0].content %}{% set messages = messages[1:] %}{% endif %}"
    chat = ChatFormat(tiny_tokenizer(template + CHAT_TEMPLATE))
    warn_of_template(chat, [HI, Prompt("Ho", system=" Be\n polite"), BRIEF])
    assert "changes or omits 1 system prompts, such as that of the prompt 'Hi'" in warnings.text


@pytest.mark.parametrize(
    ("template", "prefix", "lacks"),
    [
        (CHAT_TEMPLATE, "", ""),
        (NO_HEADER, "", "<|assistant|>"),
        (NO_HEADER, "<|assistant|>So", "<|assistant|>"),
        (ALWAYS, "", ""),
        (LLAMA_2, "", ""),
        ("{{ messages[-1]['content'] }}", "", ""),
    ],
)
def test_a_template_that_begins_no_answer_is_named(
    template: str, prefix: str, lacks: str, warnings: pytest.LogCaptureFixture
) -> None:
    chat = ChatFormat(tiny_tokenizer(template), prefix)
    assert chat.traits.lacks == lacks
    warn_of_template(chat, [HI])
    assert ("ignores add_generation_prompt" in warnings.text) == bool(lacks and not prefix)
    assert (lacks in warnings.text) or prefix


@pytest.mark.parametrize(
    ("prefix", "open_block"), [("<think>\nSo", True), ("<think>\n\n</think>\n\n", False)]
)
def test_a_prefix_that_leaves_a_block_open_is_named(
    prefix: str, open_block: bool, warnings: pytest.LogCaptureFixture
) -> None:
    warn_of_template(ChatFormat(tiny_tokenizer(), prefix), [HI])
    assert ("leaves a thinking block open ('<think>\\nSo')" in warnings.text) == open_block


def test_every_set_of_a_run_is_considered(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    counts = {f"{side}{kind}_prompts": 1 for side in ("good", "bad")
              for kind in ("", "_evaluation", "_holdout")}  # fmt: skip
    for name in counts:
        write_prompts(tmp_path / f"{name}.jsonl", [HI], {})
    write_prompts(tmp_path / "bad_holdout_prompts.jsonl", [HI, BRIEF, BRIEF], {})
    write_json(tmp_path / "bundle.json", {"counts": counts})
    warn_of_template_of_run(ChatFormat(tiny_tokenizer(DROPS)), tmp_path / "bundle.json")
    assert "drops system prompts; 2 are prepended" in warnings.text


@pytest.mark.parametrize(
    ("template", "variables"),
    [(CHAT_TEMPLATE, {}), (TOOLS, {"tools": [], "documents": []}), (PARTS_TEMPLATE, {})],
)
def test_further_variables_are_given_to_templates_that_need_them(
    template: str, variables: Mapping[str, Any]
) -> None:
    assert ChatFormat(tiny_tokenizer(template)).template_arguments == variables


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("\n{{ messages[0].content + messages }}", r"TypeError: .*concatenate.*, line 2 of the"),
        ("{{ nothing.attribute }}", "'nothing' is undefined, line 1 of the template"),
        ("{{ messages.x.y }}", "has no attribute 'x'"),
        ("\n\n{% for m in messages %}", "end of template.*, line 3 of the template"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ raise_exception('No\nlines') }}", "No lines"),
        ("{{ messages | nothing }}", "No filter named 'nothing'"),
        ("{{ undefined_function() }}", "'undefined_function' is undefined"),
    ],
)
def test_an_error_in_a_template_is_one_line_before_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, reason: str
) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(loading, "load_network", lambda *_: pytest.fail("weights are loaded"))
    with pytest.raises(ModelLoadError, match=rf"chat template rejects .*{reason}") as failure:
        load_saved(folder)
    assert "\n" not in str(failure.value)
    assert "provide another one with chat_template" in str(failure.value)


def test_an_error_that_only_some_prompts_cause_names_the_prompt() -> None:
    chat = ChatFormat(tiny_tokenizer("{{ 1 / ('?' not in messages[0].content) }}" + CHAT_TEMPLATE))
    with pytest.raises(ModelLoadError, match=r"rejects the prompt 'Why\?' \(ZeroDivisionError"):
        chat.encode([HI, Prompt("Why?")])


def named(folder: Path, place: str, templates: Mapping[str, str]) -> None:
    """Replace the only template of a model by several named ones."""
    (folder / "chat_template.jinja").unlink()
    if place == "additional_chat_templates":
        (folder / place).mkdir()
        for name, text in templates.items():
            path = folder / place / f"{name}.jinja" if name != "default" else None
            (path or folder / "chat_template.jinja").write_text(text)
        return
    path = folder / place
    known = json.loads(path.read_text()) if path.exists() else {}
    listed = [{"name": name, "template": text} for name, text in templates.items()]
    path.write_text(json.dumps({**known, "chat_template": listed}))


def chat_in(folder: Path, template: str | None = None) -> ChatFormat:
    return load_chat("m", folder, template, "", date(2025, 1, 1), trust_remote_code=False)


PLACES = ("tokenizer_config.json", "processor_config.json", "additional_chat_templates")


@pytest.mark.parametrize("place", PLACES)
def test_the_default_of_named_templates_is_used(tmp_path: Path, place: str) -> None:
    folder = save_tiny_model(tmp_path / "model")
    named(folder, place, {"tool_use": "{{ 1 / 0 }}", "default": CHAT_TEMPLATE})
    assert chat_in(folder).render(BRIEF) == RENDERED


@pytest.mark.parametrize("place", PLACES)
def test_named_templates_without_a_default_are_listed(tmp_path: Path, place: str) -> None:
    folder = save_tiny_model(tmp_path / "model")
    named(folder, place, {"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE})
    with pytest.raises(ModelLoadError, match="named rag, tool_use, and none is the default"):
        chat_in(folder)
    assert chat_in(folder, CHAT_TEMPLATE).render(BRIEF) == RENDERED


@pytest.mark.parametrize("given", [None, CHAT_TEMPLATE])
@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("chat_template.jinja", b"\xff", r"cannot read the chat template .*chat_template\.jinja"),
        ("additional_chat_templates/rag.jinja", b"\xff", r"cannot read the chat template .*rag"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "a"}]}',
         r"the chat template of tokenizer_config\.json is a list"),
    ],
)  # fmt: skip
def test_a_damaged_template_is_named(
    tmp_path: Path, given: str | None, file: str, content: bytes, reason: str
) -> None:
    folder = save_tiny_model(tmp_path / "model")
    if file == "tokenizer_config.json":
        (folder / "chat_template.jinja").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(content)
    with pytest.raises(ModelLoadError, match=reason) as failure:
        chat_in(folder, given)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("end", "prefix", "opened"),
    [
        ("<think>\n", "", "<think>\n"),
        ("<think>\n", "\n</think>\n\n", ""),
        ("", "<think>", "<think>"),
        (" Put thoughts in <think> tags.<|assistant|>", "", ""),
        ("<think></think>", "", ""),
    ],
)
def test_only_a_template_that_ends_with_a_delimiter_opens_a_block(
    end: str, prefix: str, opened: str
) -> None:
    template = LOOP + BODY + "{% if add_generation_prompt %}" + end + "{% endif %}"
    assert ChatFormat(tiny_tokenizer(template), prefix).opened_thoughts == opened

"""Chat templates that print the date, as families of models have them, and other days."""

from datetime import date, datetime
from typing import Any

import pytest
from tiny_models import CHAT_TEMPLATE
from transformers.utils import chat_template_utils

from heretic.model.chat import ChatFormat
from heretic.prompts.prompt import Prompt

DAY = date(2024, 7, 4)
TOMORROW = date(2024, 7, 5)
# As Llama 3.2: a caller may give another text.
DATE_STRING = (
    "{%- if not date_string is defined %}\n"
    "    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n'
    "    {%- else %}\n"
    '        {%- set date_string = "26 Jul 2024" %}\n'
    "    {%- endif %}\n"
    "{%- endif %}\n"
    "{{- '<|system|>Today Date: ' + date_string + '<|end|>' }}" + CHAT_TEMPLATE
)
# As gpt-oss: inside a macro.
IN_MACRO = (
    "{%- macro system_message() -%}"
    "{{- 'Current date: ' + strftime_now('%Y-%m-%d') -}}"
    "{%- endmacro -%}"
    "{{- '<|system|>' + system_message() + '<|end|>' -}}" + CHAT_TEMPLATE
)
# As Mistral Small: a variable, in a condition.
IN_CONDITION = (
    "{%- set today = strftime_now(format='%A, %-d %B %Y') %}"
    "{%- if messages[0]['role'] != 'system' %}"
    "{{ '<|system|>The current date is ' + today + '.<|end|>' }}"
    "{%- endif %}" + CHAT_TEMPLATE
)
WITH_TIME = "{{ '<|system|>now ' + strftime_now('%H:%M:%S on %c') + '<|end|>' }}" + CHAT_TEMPLATE
LINE_BREAK_FIRST = "\n\n  {{ strftime_now('100%% of %d%%d') }}\n" + CHAT_TEMPLATE
DATED = {
    "date_string": DATE_STRING,
    "in_macro": IN_MACRO,
    "in_condition": IN_CONDITION,
    "with_time": WITH_TIME,
    "line_break_first": LINE_BREAK_FIRST,
}
# As Llama 3.1: every user of the model sees this constant.
CONSTANT = (
    "{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{{- '<|system|>' + date_string + '<|end|>' }}" + CHAT_TEMPLATE
)


def set_clock_of_templates(monkeypatch: pytest.MonkeyPatch, now: datetime | None) -> None:
    """What transformers' own `strftime_now` takes for the time; None lets it fail."""

    class Clock:
        @staticmethod
        def now(*_: Any) -> datetime:
            assert now is not None, "a template has read the clock"
            return now

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def set_today(monkeypatch: pytest.MonkeyPatch, day: date) -> None:
    """Set the date that the library uses as today; a template that reads the clock fails."""
    monkeypatch.setattr("heretic.model.template_date.today", lambda: day)
    set_clock_of_templates(monkeypatch, None)


def record_rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by every prompt that a chat format renders."""
    rendered: list[str] = []
    inner = ChatFormat.render

    def watched(self: ChatFormat, prompt: Prompt) -> str:
        rendered.append(inner(self, prompt))
        return rendered[-1]

    monkeypatch.setattr(ChatFormat, "render", watched)
    return rendered

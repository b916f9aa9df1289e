"""Questions and answers in a terminal, with the edited and original model side by side."""

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from heretic.artifacts import AGAIN
from heretic.console import log
from heretic.errors import PromptError, printable
from heretic.export.adapter import load_edited
from heretic.export.base_model import edited_demo_model
from heretic.export.formats import is_adapter
from heretic.export.record_file import RECORD, read_record
from heretic.model.checkpoint import check_model, is_local
from heretic.model.decoding import decode, generate
from heretic.model.devices import set_threads
from heretic.model.loading import Model, load_baseline, load_model
from heretic.model.network import AUTO
from heretic.model.quantization import DEQUANTIZE, editable_form, stored_quantization
from heretic.model.template_date import day_of, read_chat
from heretic.prompts.prompt import Prompt
from heretic.scoring.thoughts import ends_in_thoughts, without_thoughts
from heretic.settings.prompt_sources import DEMO
from heretic.settings.schema import Settings


def converse(
    saved: Path,
    folder: Path,
    settings: Settings,
    compare: bool,
    max_new_tokens: int,
    warning: str | None = None,
) -> None:
    """Answer each line of standard input until its end; every line is a new conversation.

    Args:
        saved: folder of the edited model.
        folder: folder of its run.
        settings: settings for loading models.
        compare: load the original model as well and let it answer first.
        max_new_tokens: maximum number of tokens per answer.
        warning: warning to log once the models are loaded, so that an earlier error is the only
            line.

    Raises:
        HereticError: a model cannot be loaded, or a line that is not typed at a terminal is not a
            valid prompt.
    """
    set_threads(settings.threads)
    record, chat = read_record(saved / RECORD, AGAIN)[1], read_chat(folder / "chat.json")
    original = record.source.model
    if original == DEMO and (compare or is_adapter(saved)):
        original = str(edited_demo_model([folder.parent], record.source.sha256))
    is_packed = not is_adapter(saved) and stored_quantization(saved / "config.json") is not None
    options = {
        **settings.model_dump(mode="json"),
        "model": record.source.model,
        "model_revision": None if is_local(original) else record.source.revision,
        "quantization": DEQUANTIZE if is_packed else settings.quantization,
        "chat_template": record.chat_template or settings.chat_template,
        **chat,
        "dtype": settings.dtype if settings.dtype != AUTO else chat.get("dtype", AUTO),
    }
    day = chat["template_date"]
    if day is not None and day_of(day) != day_of(None):
        log.info("The chat template prints the date of the run, %s, not today's date", day)
    models = {"edited": load_edited(saved, options, original)}
    if compare:
        config = check_model(original, options["model_revision"])
        form = editable_form(settings.quantization, config)
        load = load_baseline if is_packed else load_model  # both in one form
        first = load(**{**options, "model": original, "quantization": form})
        models = {"original": first, **models}
    if warning is not None:
        log.warning("%s", warning)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for question in _questions():
        try:
            for name, model in models.items():
                _answer(console, model, question, max_new_tokens, f"{name}: " if compare else "")
        except PromptError as error:
            if not sys.stdin.isatty():
                raise
            log.error("%s", error)


def _answer(
    console: Console, model: Model, question: str, max_new_tokens: int, beginning: str
) -> None:
    """Print the answer to a question, without thoughts."""
    (response,) = decode(model, generate(model, [Prompt(question)], max_new_tokens))
    text = without_thoughts(response)
    answer = printable(response if text == response else text.strip() or response)
    console.print(f"{beginning}{answer}")
    if ends_in_thoughts(response):
        log.warning(
            "The response ends inside a thinking block; raise --max-tokens (%d)", max_new_tokens
        )


def _questions() -> Iterator[str]:
    """Yield lines that are not blank, with a prompt in interactive use."""
    typed = sys.stdin.isatty()
    while True:
        if typed:
            print("> ", end="", flush=True)  # noqa: T201
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()

"""Questions and answers in a terminal, with the edited model and the original side by side."""

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from heretic.artifacts import read_json
from heretic.model.decoding import decode, generate
from heretic.model.loading import Model, load_model
from heretic.model.threads import set_threads
from heretic.prompts.prompt import Prompt
from heretic.settings.prompt_sources import DEMO
from heretic.settings.schema import Settings


def converse(folder: Path, settings: Settings, compare: bool, max_new_tokens: int) -> None:
    """Answer each line of the standard input until it ends; every line starts anew.

    Args:
        folder: of a run that has saved its model.
        settings: how to load models.
        compare: load the original as well and let it answer first.
        max_new_tokens: tokens of an answer at most.

    Raises:
        ModelLoadError: a model cannot be loaded.
    """
    set_threads(settings.threads)
    prefix = read_json(folder / "chat.json")["response_prefix"]
    models = {"edited": _load(str(folder / "model"), None, prefix, settings)}
    if compare:
        source = read_json(folder / "model" / "ablation.json")["source"]
        path = str(folder.parent / "demo-model") if source["model"] == DEMO else source["model"]
        models = {"original": _load(path, source["revision"], prefix, settings), **models}
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for question in _questions():
        for name, model in models.items():
            answer = decode(model, generate(model, [Prompt(question)], max_new_tokens))[0]
            console.print(f"{name}: {answer}" if compare else answer)


def _load(model: str, revision: str | None, prefix: str, settings: Settings) -> Model:
    options = settings.model_dump(mode="json")
    return load_model(
        **{**options, "model": model, "model_revision": revision, "response_prefix": prefix}
    )


def _questions() -> Iterator[str]:
    """Lines that are not blank; with a prompt where somebody types them."""
    typed = sys.stdin.isatty()
    while True:
        if typed:
            print("> ", end="", flush=True)  # noqa: T201
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()

"""Questions and answers in a terminal, with the edited model and the original side by side."""

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from heretic.artifacts import read_json
from heretic.demo.folder import is_demo_folder
from heretic.errors import ModelLoadError, printable
from heretic.export.adapter import load_edited
from heretic.export.forms import is_adapter
from heretic.model.decoding import decode, generate
from heretic.model.loading import load_model
from heretic.model.quantization import AS_IS, NONE
from heretic.model.source import is_local, source_facts
from heretic.model.threads import set_threads
from heretic.prompts.prompt import Prompt
from heretic.settings.prompt_sources import DEMO
from heretic.settings.schema import Settings


def converse(
    saved: Path, folder: Path, settings: Settings, compare: bool, max_new_tokens: int
) -> None:
    """Answer each line of the standard input until it ends; every line starts anew.

    Args:
        saved: the edited model.
        folder: of its run.
        settings: how to load models.
        compare: load the original as well and let it answer first.
        max_new_tokens: tokens of an answer at most.

    Raises:
        HereticError: a model cannot be loaded.
    """
    set_threads(settings.threads)
    record = read_json(saved / "ablation.json")
    source = record["source"]
    original = source["model"]
    if original == DEMO and (compare or is_adapter(saved)):
        original = str(edited_demo_model(folder.parent, source["sha256"]))
    options = {
        **settings.model_dump(mode="json"),
        "model": source["model"],
        "model_revision": None if is_local(original) else source["revision"],
        "quantization": NONE if settings.quantization == AS_IS else settings.quantization,
        "chat_template": record["chat_template"] or settings.chat_template,
        "response_prefix": read_json(folder / "chat.json")["response_prefix"],
    }
    models = {"edited": load_edited(saved, options, original)}
    if compare:
        models = {"original": load_model(**{**options, "model": original}), **models}
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for question in _questions():
        for name, model in models.items():
            answer = printable(
                decode(model, generate(model, [Prompt(question)], max_new_tokens))[0]
            )
            console.print(f"{name}: {answer}" if compare else answer)


def edited_demo_model(results: Path, sha256: str) -> Path:
    """The demo model of which an edited one was made; there may be several, of other options.

    Args:
        results: folder of all runs.
        sha256: of its weights, as the record of the edited model has it.

    Raises:
        ModelLoadError: it is not there.
    """
    folders = (path for path in sorted(results.iterdir()) if path.is_dir())
    for found in folders:
        if is_demo_folder(found.name) and source_facts(DEMO, None, found)["sha256"] == sha256:
            return found
    raise ModelLoadError(
        f"the demo model that was edited is not in {results}; run the workflow again with the "
        "options of that run, which trains it"
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

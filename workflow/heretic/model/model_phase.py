"""Execution of a phase that loads the model: its settings, merged once, and its threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.model.devices import set_threads
from heretic.model.template_date import read_chat
from heretic.phase_job import Script, phase


@dataclass(frozen=True)
class ModelPhase:
    """Settings of a phase that loads the model.

    Attributes:
        settings: settings of the phase, with the run's response prefix and template date, and the
            data type if `dtype: auto` fell back to another.
        runtime: settings that affect no result, such as the device.
        load_options: keyword arguments of `load_model`: both of these, and the model's path.
    """

    settings: dict[str, Any]
    runtime: dict[str, Any]
    load_options: dict[str, Any]


@contextmanager
def model_phase(script: Script) -> Iterator[ModelPhase]:
    """Run the block as a phase on the model, with the number of CPU threads in the settings.

    Args:
        script: the job; `input.chat`, if any, has the response prefix, template date and data type
            of the run, and `params.model` the path of the model.
    """
    with phase(script) as settings:
        runtime: dict[str, Any] = script.config["runtime"][script.wildcards.run]
        set_threads(runtime["threads"])
        chat = script.input.get("chat")
        if chat:
            settings = {**settings, **read_chat(Path(chat))}
        options = {**runtime, **settings, "model": script.params.get("model")}
        yield ModelPhase(settings, runtime, options)

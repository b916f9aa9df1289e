"""Places of a run's prompts in the files they were read from, for messages."""

from pathlib import Path

from heretic.artifacts import read_json
from heretic.errors import PromptError
from heretic.prompts.local_files import existing_path, located_prompts, read_local_file
from heretic.prompts.prompt import Prompt
from heretic.prompts.prompt_sets import FINGERPRINT_SUFFIX
from heretic.settings.prompt_sources import PromptSource


def origin_of(prompt: Prompt, path: Path) -> str | None:
    """Return the place of a prompt in a file, such as `row 3 of my.csv, split train`.

    Args:
        prompt: a prompt of the set.
        path: prompt set written by `write_prompts`, with its fingerprint.

    Returns:
        None if the prompt is not from a local file, or the file has changed since.
    """
    fingerprint = path.with_suffix(FINGERPRINT_SUFFIX)
    if not fingerprint.is_file():
        return None
    sources = [PromptSource(**facts["source"]) for facts in read_json(fingerprint)["sources"]]
    for source in sources:
        file = existing_path(source.dataset)
        if file is None or not file.is_file():
            continue
        try:
            for place, found in located_prompts(*read_local_file(file, source)):
                if (found.text, found.system) == (prompt.text, prompt.system):
                    return place
        except PromptError:  # the place is additional information about another error
            return None
    return None

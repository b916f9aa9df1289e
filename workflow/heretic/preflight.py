"""What can be found wrong with a run before any work: no weights are read, little is fetched."""

from heretic.errors import SettingsError
from heretic.export.forms import check_form
from heretic.export.hub import check_upload
from heretic.model.source import check_model
from heretic.prompts.sources import check_sources
from heretic.settings.prompt_sources import DEMO
from heretic.settings.schema import Settings

RESERVED_RUNS = ("demo-model",)


def check_run(run: str, settings: Settings) -> None:
    """Check the model, the prompt sets, the form of the export and the upload of one run.

    Args:
        run: name of the results folder.
        settings: of a single model.

    Raises:
        HereticError: the first thing that is wrong.
    """
    if run in RESERVED_RUNS:
        raise SettingsError(f"run_name = {run!r} is where the demo model lies; choose another")
    assert isinstance(settings.model, str)
    if settings.model != DEMO:
        check_model(settings.model, settings.model_revision)
    check_sources(settings.prompt_sources())
    check_form(settings.export, settings.norm_preservation)
    if settings.upload_to is not None:
        check_upload(settings.upload_to)

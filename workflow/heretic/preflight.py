"""Checks of a run before any work, without reading weights."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from heretic.benchmarks.tasks import check_benchmarks
from heretic.console import log
from heretic.demo.folder import is_demo_folder
from heretic.errors import ExportError, SettingsError, one_line
from heretic.export.formats import check_form
from heretic.export.record_file import read_owner
from heretic.export.upload import check_upload
from heretic.file_systems import check_writable, nearest, network_file_system
from heretic.model.accelerators import check_device
from heretic.model.checkpoint import (
    check_model,
    checkpoint_files,
    is_local,
    on_the_hub,
    resolve_revision,
    snapshot_repo,
)
from heretic.model.inspection import check_chat, check_listing, inspect_checkpoint
from heretic.model.quantization import (
    AS_IS,
    DEQUANTIZE,
    check_checkpoint,
    check_exportable,
    check_original,
    check_packable,
    check_package,
    require_alike,
)
from heretic.model.size import checkpoint_bytes, hub_files
from heretic.model.template import read_template
from heretic.prompts.sources import check_sources
from heretic.report.embedding import check_projection
from heretic.scorer_registry import BUILT_IN
from heretic.search.warm_start_sources import check_warm_start
from heretic.settings.prompt_sources import DEMO
from heretic.settings.schema import Settings

if TYPE_CHECKING:  # loads torch
    from heretic.scoring.scorer_set import ScorerSet

# Written by Snakemake and the jobs next to the results folder.
WRITTEN = {"logs": "logs", "benchmarks": "times of jobs", ".snakemake": "records of jobs"}
RESERVED_RUNS = {"comparisons": "comparisons of models lie"}


def check_run(run: str, settings: Settings, results: Path) -> None:
    """Check a run's model, prompt sets, warm start, export, folder, upload, report and benchmarks.

    Args:
        run: name of the run's folder.
        settings: settings of a single model.
        results: folder of all runs; need not exist.

    Raises:
        HereticError: a check fails; only the first failure is reported.
    """
    if is_demo_folder(run):
        raise SettingsError(f"run_name = {run!r} is reserved for a demo model; choose another")
    if run in RESERVED_RUNS:
        raise SettingsError(f"run_name = {run!r} is where {RESERVED_RUNS[run]}; choose another")
    assert isinstance(settings.model, str)
    check_braces(settings)
    check_device(settings.device)
    check_models(settings)
    check_picks(results / run, settings)
    check_sources(settings.prompt_sources())
    check_scores(settings)
    check_owner(results / run, settings)
    check_form(settings.export, settings.norm_preservation, settings.ablate_embeddings)
    check_projection(settings.projection)
    check_benchmarks(settings.benchmarks, settings.benchmark_tasks)
    check_warm_start(settings.warm_start, settings.warm_start_from, results / run)
    check_writable(results / run)
    warn_of_network(results / run)
    if source_of_export(settings) != DEMO and settings.export != "adapter":
        check_space(results / run, settings)
    if settings.upload_to is not None:
        check_upload(settings.upload_to)
        check_base_of_adapter(settings)


def check_braces(settings: Settings) -> None:
    """Reject paths with braces, which Snakemake takes for wildcards.

    Raises:
        SettingsError: a path has a brace; the message names its setting.
    """
    single = ("model", "export_from", "warm_start", "warm_start_from", "benchmark_tasks")
    named = [(name, getattr(settings, name)) for name in single]
    named += [("scorers", each.scorer) for each in settings.scorers]
    named += [
        (name, source.dataset)
        for name, sources in settings.prompt_sources().items()
        for source in sources
    ]
    for name, value in named:
        if isinstance(value, str) and not {"{", "}"}.isdisjoint(value):
            raise SettingsError(
                f"{name} = {one_line(value, 120)}: Snakemake takes braces in a path for wildcards; "
                "rename the file or folder, or use a link without braces"
            )


def check_models(settings: Settings) -> None:
    """Reject a model that is unavailable or not quantized as configured.

    Raises:
        ModelLoadError: the model, or the exported one, is missing or in another form.
        SettingsError: the package for quantization is missing, or the demo is configured as
            quantized.
    """
    check_package(settings.quantization)
    assert isinstance(settings.model, str)
    if settings.model != DEMO:
        config = check_model(settings.model, settings.model_revision)
        inspect_checkpoint(settings.model, config, trust_remote_code=settings.trust_remote_code)
        check_checkpoint(settings.model, config, settings.quantization)
        if settings.quantization == AS_IS and settings.export_from is None:
            check_exportable(settings.model, config)
        if settings.export == "quantized":
            check_packable(settings.model, config)
        check_files(settings, config)
    elif settings.quantization in (AS_IS, DEQUANTIZE):
        raise SettingsError("the demo model is not quantized; set quantization=none")
    if settings.export_from is not None:
        exported = check_model(settings.export_from, None)
        inspect_checkpoint(
            settings.export_from, exported, trust_remote_code=settings.trust_remote_code
        )
        check_original(settings.export_from, exported)
        if settings.model != DEMO:
            require_alike(config, exported, settings.export_from)


def check_files(settings: Settings, config: Path) -> None:
    """Reject a model whose files, as far as they are known locally, lack weights or a tokenizer.

    Raises:
        ModelLoadError: a file is missing; the message names it.
    """
    assert isinstance(settings.model, str)
    if is_local(settings.model):
        check_chat(settings.model, config.parent, read_template(settings.chat_template))
        return
    names = hub_files(settings.model, settings.model_revision)
    if names is not None:
        check_listing(settings.model, names)


def check_picks(folder: Path, settings: Settings) -> None:
    """Reject a trial named in `select` that the search will not contain.

    An existing study may have more trials than are now requested.

    Raises:
        SettingsError: the trial will not exist; the message states the range of numbers.
    """
    if (folder / "study.db").exists():
        return
    for rule in settings.picks().values():
        number = rule.removeprefix("trial=")
        if number != rule and int(number) >= settings.n_trials:
            raise SettingsError(
                f"select={rule} selects a nonexistent trial: n_trials={settings.n_trials} gives "
                f"trials 0 to {settings.n_trials - 1}; raise n_trials, or select another"
            )


def check_scores(settings: Settings) -> None:
    """Reject scorers that cannot be created, and objectives without a scorer.

    Raises:
        SettingsError: a scorer or an objective is invalid; only the first failure is reported.
        ModelLoadError: a judge does not exist.
    """
    named = {name: getattr(settings, name) for name in ("objectives", "scorers", "refusal_markers")}
    if all(value == Settings.model_fields[name].default for name, value in named.items()):
        return
    # These load torch, which most runs do not need here.
    from heretic.search.study_objectives import directions_of

    for name in settings.objectives:
        entry = BUILT_IN.get(name)
        prompts = f"{entry.side}_evaluation_prompts" if entry and entry.needs_answers else None
        sources = settings.prompt_sources()[prompts] if prompts else ()
        if not all(source.answer_column for source in sources):
            raise SettingsError(
                f"the objective {name} needs correct answers; set answer_column for {prompts}, or "
                "choose other objectives"
            )
    directions_of(check_scorers(settings), settings.objectives)


def check_scorers(settings: Settings) -> "ScorerSet":
    """Return the scorers named in the settings.

    Raises:
        SettingsError: a scorer cannot be created, or lacks plain texts.
        ModelLoadError: a judge does not exist.
    """
    from heretic.scoring.scorer_set import make_scorer_set

    scorer_set = make_scorer_set(settings.refusal_markers, settings.subset("optimize")["scorers"])
    if scorer_set.needs_texts and "unhelpfulness_prompts" not in settings.prompt_sources():
        raise SettingsError(
            f"the score {scorer_set.needs_texts[0]} needs plain texts; set "
            "unhelpfulness_prompts=true, or set it to a dataset of texts"
        )
    return scorer_set


def scorer_files(settings: Settings) -> list[str]:
    """Return additional files that affect scores: the user's classes and local judges."""
    found: list[str] = []
    for each in settings.scorers:
        path = each.scorer.rpartition(":")[0]
        entry = BUILT_IN.get(each.scorer)
        model = each.settings.get(entry.checkpoint) if entry and entry.checkpoint else None
        found += [path] if path else checkpoint_files(model if isinstance(model, str) else None)
    return found


def source_of_export(settings: Settings) -> str:
    """Return the model whose weights are edited and saved, for the settings of one run."""
    assert isinstance(settings.model, str)
    return settings.export_from or settings.model


def pinned(settings: Settings) -> Settings:
    """Return a run's settings with mutable references (a branch, a template's file) resolved.

    Raises:
        ModelLoadError: the hub does not know the revision, or the template cannot be read.
    """
    assert isinstance(settings.model, str)
    found = {"chat_template": read_template(settings.chat_template)}
    if settings.model != DEMO:
        found["model_revision"] = resolve_revision(settings.model, settings.model_revision)
    return settings.model_copy(update=found)


def check_base_of_adapter(settings: Settings) -> None:
    """Reject the upload of an adapter whose base model is only on this machine.

    Raises:
        SettingsError: the base model is a folder or the demo model.
    """
    source = source_of_export(settings)
    if settings.export != "adapter" or on_the_hub(source):
        return
    if source == DEMO or snapshot_repo(Path(source).expanduser()) is None:
        name = "model" if settings.export_from is None else "export_from"
        raise SettingsError(
            f"an adapter of {name}={source} cannot be uploaded, since others cannot find its base "
            f"model; set {name} to a hub id, or export=merged"
        )


def check_owner(folder: Path, settings: Settings) -> None:
    """Refuse to replace another model's results that have this name by coincidence.

    Raises:
        SettingsError: the folder contains a saved model that was made from a different one.
    """
    record = folder / "model" / "ablation.json"
    if settings.run_name is not None or not record.is_file():
        return
    owner = read_owner(record).searched
    if _identity(owner) != _identity(str(settings.model)):
        raise SettingsError(
            f"{folder} holds the results of {owner}; use another run_name for {settings.model}"
        )


def _identity(model: str) -> str:
    return str(Path(model).expanduser().resolve()) if is_local(model) else model


def check_working_folder(folder: Path) -> None:
    """Reject a working folder where logs or records of jobs cannot be written.

    Raises:
        ExportError: a folder is not writable; the message names the first one.
    """
    for name, what in WRITTEN.items():
        check_writable(folder / name, what)


def warn_of_network(folder: Path) -> None:
    """Warn if the database of a search is on a file system on which SQLite is not safe."""
    kind = network_file_system(folder)
    if kind is not None:
        log.warning(
            "%s is on a network file system (%s), where SQLite locks may fail: never search from "
            "two machines at once, or put the results folder on a local disk (it may be a link)",
            folder / "study.db",
            kind,
        )


def check_space(folder: Path, settings: Settings) -> None:
    """Reject a run whose edited models, one per rule of `select`, will not fit on the disk.

    A run that has already saved them passes, as it may have nothing left to do.

    Raises:
        ExportError: too little free space; the message states the required and the free space.
    """
    places = [Path(f"{folder}{pick}") for pick in settings.picks()]
    missing = sum(not (place / "model.manifest.json").exists() for place in places)
    if not missing:
        return
    source = source_of_export(settings)
    revision = settings.model_revision if source == settings.model else None
    quantized = settings.export == "quantized"
    each = checkpoint_bytes(
        source, revision, "auto" if quantized else settings.dtype, dequantize=not quantized
    )
    needed = None if each is None else missing * each
    free = shutil.disk_usage(nearest(folder)).free
    if needed is not None and needed > free:
        models = "the edited model" if missing == 1 else f"the {missing} edited models"
        raise ExportError(
            f"{models} will take {_size(needed)} in {folder}, where {_size(free)} is free; free "
            f"{_size(needed - free)}, or run on a larger disk"
        )


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"

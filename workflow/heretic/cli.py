"""The `heretic` command: a thin wrapper around the settings, Snakemake and a run's results.

heretic run --model Qwen/Qwen2.5-7B-Instruct --n-trials 50      the same as
snakemake --cores 1 --config model=Qwen/Qwen2.5-7B-Instruct n_trials=50
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import heretic
from heretic.console import one_line_errors, start_logging
from heretic.errors import DEBUG, ExportError, SettingsError, printable
from heretic.file_systems import check_writable
from heretic.saved_picks import outdated
from heretic.settings.cli_options import takes_settings
from heretic.settings.config_files import configuration_files
from heretic.settings.resolve import Resolution, config_argument, resolve
from heretic.settings.schema import Settings

RESULTS = Path("results")
PICKED = "picks/*/model.manifest.json"
# Snakemake options that already set the number of parallel jobs.
SETS_CORES = re.compile(r"(--(cores|jobs|profile|workflow-profile|executor)(=.*)?|-[cj].*)$")

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--configfile", help="Additional configuration file; may be repeated."),
]
Run = Annotated[
    str | None, typer.Argument(help="Folder under results/; optional if there is only one.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; report a `HereticError` as one line, with status 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    end = given.index("--") if "--" in given else len(given)
    given, for_snakemake = given[:end], given[end + 1 :]
    if given and given[0].startswith("--") and given[0] not in ("--help", "--version"):
        given = ["run", *given]
    if debug:
        os.environ[DEBUG] = "1"
    start_logging(debug=debug)
    with one_line_errors(debug=debug):
        command_line()(given, prog_name="heretic", obj=for_snakemake)


def command_line() -> typer.Typer:
    """Return the commands, with an option for every setting."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_heretic)
    for command in (_run, _plan, _evaluate, _show_config):
        name = command.__name__.strip("_").replace("_", "-")
        # Accept unknown options, to suggest the nearest setting.
        context = {"ignore_unknown_options": True, "allow_extra_args": True}
        app.command(name, context_settings=context)(takes_settings(command))
    app.command("trials")(_trials)
    app.command("chat")(takes_settings(_chat))
    app.command("reproduce")(takes_settings(_reproduce))
    app.command("verify")(takes_settings(_verify))
    return app


def _heretic(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Directional ablation of an open-weight language model.

    Every setting is an option: `heretic --model X --cache-weights true` runs the workflow. Use
    --debug for full tracebacks.
    """
    if show_version:
        typer.echo(heretic.__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _run(
    context: typer.Context,
    given: dict[str, Any],
    cores: Annotated[str, typer.Option(help="CPU cores, or `all`.")] = "1",
    configfile: ConfigFiles = None,
) -> None:
    """Run all stale phases of the workflow. Options after `--` are passed to snakemake."""
    _no_more(context.args)
    _snakemake(given, cores, configfile or [], context.obj)


def _plan(context: typer.Context, given: dict[str, Any], configfile: ConfigFiles = None) -> None:
    """Show the phases that would run, and why, without running them."""
    _no_more(context.args)
    _snakemake(given, "1", configfile or [], ["--dry-run", *context.obj])


def _evaluate(
    context: typer.Context,
    given: dict[str, Any],
    cores: Annotated[str, typer.Option(help="CPU cores, or `all`.")] = "1",
    configfile: ConfigFiles = None,
    against: Annotated[
        str | None,
        typer.Option(help="Compare --model with this model, without running the workflow."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Output folder for --against.", show_default=False)
    ] = None,
) -> None:
    """Run the held-out evaluation and print its table, or compare any two models."""
    from heretic.report.table import run_summaries

    _no_more(context.args)
    if against is not None:
        from heretic.commands.compare import compare

        settings = _resolve(given, configfile or []).settings
        _say(compare(settings, against, output, RESULTS))
        return
    if output is not None:
        raise SettingsError("--output requires --against; set the model to compare with")
    runs = _resolve(given, configfile or []).runs()
    tables = {run: RESULTS / run / "evaluation.json" for run in runs}
    before = {run: path.stat().st_mtime_ns for run, path in tables.items() if path.exists()}
    targets = [str(path) for path in tables.values()]
    command = _command(given, cores, configfile or [], context.obj, targets)
    with _interrupts_left_to_child():
        status = subprocess.call(command)
    if status == 0 and all(before.get(r) == p.stat().st_mtime_ns for r, p in tables.items()):
        # Nothing was stale, so the workflow printed nothing.
        _say(run_summaries(RESULTS, runs))
    raise typer.Exit(status)


def _show_config(
    context: typer.Context,
    given: dict[str, Any],
    configfile: ConfigFiles = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print the value and the source of every setting."""
    _no_more(context.args)
    found = _resolve(given, configfile or [])
    values = found.settings.model_dump(mode="json")
    if as_json:
        rows = {k: {"value": v, "origin": found.origins[k]} for k, v in values.items()}
        _say(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    widths = max(map(len, texts)), max(map(len, texts.values()))
    for key, text in texts.items():
        _say(f"{key:<{widths[0]}}  {text:<{widths[1]}}  {found.origins[key]}")


def _trials(
    run: Run = None,
    study: Annotated[
        str | None, typer.Option(help="Study in the file; default: the latest one.")
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="Print only the Pareto front.")] = False,
) -> None:
    """Print a search's trials, even while it is running; `*` marks the Pareto front."""
    from heretic.search.status import read_search, search_table

    folder = run_folder(run, "study.db")
    _say(search_table(read_search(folder / "study.db", study), only_front=front))


def _chat(
    given: dict[str, Any],
    run: Run = None,
    pick: Annotated[
        str | None, typer.Option(help="Pick of a further rule of `select`: a folder under picks/.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also show the original model's responses.")
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of tokens per response.")
    ] = 200,
    configfile: ConfigFiles = None,
) -> None:
    """Chat with a run's edited model (single-turn)."""
    from heretic.commands.chat import converse

    folder = run_folder(run, "model.manifest.json")
    saved = folder / "model"
    if pick is not None:
        saved = folder / "picks" / pick.replace("=", "-") / "model"
    if not saved.with_name("model.manifest.json").is_file():
        there = ", ".join(sorted(path.parent.name for path in folder.glob(PICKED))) or "none"
        raise SettingsError(f"{folder} has no pick {pick!r}; available: {there}")
    reason = outdated(saved, folder)
    if reason is not None and pick is not None:
        raise SettingsError(
            f"{saved.parent} is outdated: {reason}; add the rule to `select` and run the workflow"
        )
    warning = reason and f"{saved} is outdated: {reason}; run the workflow to update it"
    settings = _resolve(given, configfile or []).settings
    converse(saved, folder, settings, compare, max_tokens, warning)


def _reproduce(
    given: dict[str, Any],
    ablation: Annotated[Path, typer.Argument(help="Path of an edited model's `ablation.json`.")],
    target: Annotated[
        Path | None,
        typer.Argument(help="Output folder; default: next to the edited model."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="Location of the base model; default: as recorded in the file."),
    ] = None,
    configfile: ConfigFiles = None,
) -> None:
    """Rebuild an edited model from its base model and verify every file."""
    from heretic.export.reproduce import reproduce

    folder = target or Path(f"{ablation.resolve().parent}.reproduced")
    settings = _resolve(given, configfile or []).settings
    files = reproduce(ablation, folder, settings, base_model)
    _say(f"{folder}: {len(files)} files identical to {ablation}")


def _verify(
    given: dict[str, Any],
    folder: Annotated[Path, typer.Argument(help="Folder of a saved model or adapter.")],
    base_model: Annotated[
        str | None,
        typer.Option(help="Location of the base model; default: as recorded in the folder."),
    ] = None,
    configfile: ConfigFiles = None,
) -> None:
    """Compare a saved model with its record and its base model, before or after a transfer."""
    from heretic.commands.verify import verify

    settings = _resolve(given, configfile or []).settings
    failed = []
    for check in verify(folder, settings, base_model):
        _say(str(check))
        if not check.passed:
            failed.append(check)
    if failed:
        raise ExportError(
            f"{folder} is not the recorded edit of its base model: {failed[0].found}; save or "
            "download it again"
        )


def run_folder(run: str | None, holding: str) -> Path:
    """Return the results folder of a run, or of the only one.

    Raises:
        SettingsError: No such run exists, none has progressed far enough, or several match.
    """
    found = sorted(path.parent.name for path in RESULTS.glob(f"*/{holding}"))
    if run is None and len(found) == 1:
        return RESULTS / found[0]
    if run in found:
        return RESULTS / str(run)
    if not found:
        raise SettingsError(f"no run has a {holding} yet; start one with `heretic run`")
    named = "specify a run" if run is None else f"no run {run!r} with a {holding}"
    raise SettingsError(f"{named}; available: {', '.join(found)}")


def _say(text: str) -> None:
    """Print text that may contain output of a model, a dataset or a study."""
    typer.echo(printable(text))


def _resolve(given: dict[str, Any], further: Sequence[Path]) -> Resolution:
    return resolve(configuration_files(Path(), further), os.environ, given)


def _snakemake(
    given: dict[str, Any],
    cores: str,
    further: Sequence[Path],
    passed_on: Sequence[str],
) -> None:
    """Replace this process with snakemake, to pass on signals and the exit status."""
    os.execv(sys.executable, _command(given, cores, further, passed_on))


@contextmanager
def _interrupts_left_to_child() -> Iterator[None]:
    """Ignore the interrupt key, which the child process receives and handles."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # unlike SIG_IGN, not inherited
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_cache() -> None:
    """Reject a home that is not writable, for which Snakemake would print a traceback.

    Raises:
        ExportError: The cache folder is not writable.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        check_writable(home / "snakemake", "cached sources")
    except ExportError as error:
        raise ExportError(f"{error}, or set XDG_CACHE_HOME to a writable folder") from error


def _command(
    given: dict[str, Any],
    cores: str,
    further: Sequence[Path],
    passed_on: Sequence[str],
    targets: Sequence[str] = (),
) -> list[str]:
    """Return the snakemake command after validation of the settings."""
    _resolve(given, further)
    _check_cache()
    if not Path("Snakefile").is_file():
        clone = Path(__file__).parents[2]
        raise SettingsError(
            f"no Snakefile in {Path.cwd()}; change to your clone of the workflow "
            f"(`cd {clone}`) and rerun"
        )
    # Targets first, because --configfile and --config consume all following arguments.
    command = [sys.executable, "-m", "snakemake", *targets, *passed_on]
    if not any(SETS_CORES.match(argument) for argument in passed_on):
        command += ["--cores", cores]
    if further:
        command += ["--configfile", *map(str, further)]
    if given:
        command += ["--config", *(config_argument(k, v) for k, v in given.items())]
    return command


def _no_more(extra: Sequence[str]) -> None:
    """Reject arguments that are neither settings nor options.

    Raises:
        SettingsError: An argument is unexpected; the message names the nearest setting.
    """
    if extra:
        name, _, value = extra[0].partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if key in Settings.model_fields:
            raise SettingsError(f"use --{key.replace('_', '-')} {value}, not {extra[0]}")
        if name.startswith("--") or value:
            resolve({}, {}, {key: None})
        raise SettingsError(f"unexpected argument {extra[0]!r}; see `heretic --help`")

"""Comparison of any two models under one protocol: a table, a page, and all answers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from heretic.artifact_types import ModelComparison
from heretic.artifacts import GIVEN, provenance, read_json, sha256_of, write_jsonl
from heretic.console import log
from heretic.demo.folder import folder_name
from heretic.errors import ModelLoadError, SettingsError
from heretic.evaluation.comparison import compare_models
from heretic.evaluation.holdout import HoldoutProtocol, HoldoutSets
from heretic.export.adapter import WEIGHTS, attach_adapter
from heretic.export.formats import ADAPTER_CONFIG, is_adapter
from heretic.export.record_file import RECORD, read_record
from heretic.file_systems import check_writable
from heretic.model.checkpoint import check_model, is_local, locate, resolve_revision, source_facts
from heretic.model.devices import set_threads
from heretic.model.loading import Model, load_chat_of, load_model
from heretic.model.prompt_checks import require_plain_text, sample_of
from heretic.model.prompt_lengths import require_lengths
from heretic.model.quantization import AS_IS, DEQUANTIZE, NONE, check_package, stored_quantization
from heretic.model.template_date import day_of
from heretic.preflight import check_scorers
from heretic.prompts.checks import check_disjoint
from heretic.prompts.prompt import Prompt
from heretic.prompts.sources import LoadedPrompts, check_sources, read_sources
from heretic.report.comparison_page import write_comparison
from heretic.report.table import summary_table
from heretic.settings.prompt_sources import DEMO, HOLDOUT_SETS, PromptSource
from heretic.settings.schema import Settings, safe_name
from heretic.settings.types import PlantedName

TEXTS = "unhelpfulness_prompts"
COMPARISONS = "comparisons"
OF_A_RUN = ("best.json", "study.db", "model")
TABLE, ANSWERS, PAGE = "evaluation.json", "answers.jsonl", "report.html"
# Settings that affect the results, besides the models and the prompts.
TOLD = (
    *("dtype", "quantization", "chat_template", "max_response_length", "kl_tokens"),
    *("bootstrap_samples", "seed", "refusal_markers", "scorers"),
)


@dataclass(frozen=True)
class Candidate:
    """One of two models, known to be available.

    Attributes:
        name: name given by the user.
        model: hub id or folder of the weights; for an adapter, those of its base model.
        revision: commit of a hub model.
        quantization: form in which it is loaded.
        adapter: folder of the adapter to apply, or None.
        chat_template: template that replaces the model's own, or None.
    """

    name: str
    model: str
    revision: str | None
    quantization: str
    adapter: Path | None = None
    chat_template: str | None = None

    def load(self, options: Mapping[str, Any]) -> Model:
        """Load the model with settings of `load_model`.

        Raises:
            ModelLoadError, ExportError: the model cannot be loaded, or its adapter does not fit.
        """
        model = load_model(**{**options, **self._options()})
        return model if self.adapter is None else attach_adapter(model, self.adapter)

    def check_prompts(
        self, options: Mapping[str, Any], sets: Mapping[str, Sequence[Prompt]]
    ) -> None:
        """Reject prompts that are too long for the model or contain its special tokens.

        Raises:
            PromptError: the message states the set, the row and the remedy.
            ModelLoadError: the tokenizer cannot be loaded.
        """
        chat = load_chat_of(**{**options, **self._options()})
        require_lengths(chat, sets, options["max_response_length"])
        require_plain_text(chat, sets)

    def _options(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "model_revision": self.revision,
            "quantization": self.quantization,
            "chat_template": self.chat_template,
            "response_prefix": "",
        }

    def facts(self) -> dict[str, Any]:
        """Return the facts of the measurement: name, revision and hashes of the weights."""
        found = source_facts(self.model, self.revision, locate(self.model, self.revision))
        form = {} if self.quantization == NONE else {"quantization": self.quantization}
        if self.adapter is None:
            return {**found, "model": self.name, **form}
        adapter = sha256_of(self.adapter / WEIGHTS)
        return {"model": self.name, "sha256": adapter, "base": found, **form}


def compare(settings: Settings, against: str, output: Path | None, results: Path) -> str:
    """Compare `settings.model` with the model `against`, and write the results.

    Writes `evaluation.json` and `answers.jsonl` as a run does, and `report.html`.

    Args:
        settings: settings for loading and measuring; the held-out prompt sets default to those of a
            run of `against`.
        against: original model as a hub id, a folder or `demo`.
        output: folder for the files; None for a folder under `results/comparisons`.
        results: folder of all runs, which contains the demo model.

    Returns:
        The table and the location of the files, as text.

    Raises:
        HereticError: a check or a model fails; invalid names, prompts or folders are reported
            before a model is loaded.
    """
    if not isinstance(settings.model, str):
        raise SettingsError("--against compares two models; specify the other one with --model")
    name = f"{_folder_name(settings.model)}--against--{_folder_name(against)}"
    folder = output or results / COMPARISONS / name
    check_writable(folder)
    if any((folder / name).exists() for name in OF_A_RUN):
        raise SettingsError(
            f"{folder} holds the results of a run, which a comparison would replace; choose "
            "another folder with --output"
        )
    original = find_candidate(against, None, settings, results)
    edited = find_candidate(settings.model, settings.model_revision, settings, results)
    if original.quantization != edited.quantization:
        log.warning(
            "The models are loaded in different precision (quantization %s and %s), which "
            "accounts for part of their differences",
            *(model.quantization for model in (original, edited)),
        )
    sources = settings.model_copy(update={"model": against}).prompt_sources()
    check_scorers(settings)
    read = [*HOLDOUT_SETS, *([TEXTS] if settings.scorers and TEXTS in sources else [])]
    chosen = {name: sources[name] for name in read}
    prompts = load_sets(chosen, settings.seed, settings.demo_refusal_class)
    set_threads(settings.threads)
    # Both models have the same date in their prompts, even across midnight.
    day = day_of(settings.template_date).isoformat()
    options = {
        **settings.model_dump(mode="json"),
        **settings.subset("evaluate"),
        "template_date": day,
    }
    for model in (original, edited):  # before one of them is measured
        model.check_prompts(options, {name: prompts[name].prompts for name in HOLDOUT_SETS})
    protocol = HoldoutProtocol.from_settings(options)
    loading = {**options, "test_prompts": sample_of({n: prompts[n].prompts for n in read})}
    found, asked = compare_models(
        lambda: original.load(loading),
        lambda: edited.load(loading),
        HoldoutSets(*(prompts[name].prompts for name in read)),
        protocol,
        settings.response_prefix,
    )
    told = {**{key: options[key] for key in TOLD}, **asdict(asked)}
    comparison = ModelComparison(
        **found.table,
        models={"original": original.facts(), "edited": edited.facts()},
        prompts={name: loaded.facts for name, loaded in prompts.items()},
        provenance=provenance(told, {}),
    )
    write_jsonl(folder / ANSWERS, found.answers)
    comparison.write(folder / TABLE)
    evaluation = comparison.to_dict()
    write_comparison(evaluation, folder / PAGE)
    names = f"Original: {against}\nEdited:   {settings.model}"
    return f"{names}\n{summary_table(evaluation)}\nReport in {folder / PAGE}"


def _folder_name(model: str) -> str:
    """Return a model's name for folders; a local model's includes a hash of its full path."""
    if model == DEMO or not is_local(model):
        return safe_name(model)
    path = str(Path(model).expanduser().resolve())
    return f"{safe_name(model)}-{sha256(path.encode()).hexdigest()[:8]}"


def find_candidate(name: str, revision: str | None, settings: Settings, results: Path) -> Candidate:
    """Return a model by its name after checking it; downloads little and loads nothing.

    A quantized checkpoint is used as it is unless it is to be dequantized, any other in the form
    given by `quantization`.

    Raises:
        ModelLoadError: the model, or the base model of an adapter, is missing.
        SettingsError: the package for quantization is missing.
    """
    template, adapter = settings.chat_template, None
    model = name
    if is_local(name) and is_adapter(Path(name).expanduser()):
        adapter = Path(name).expanduser()
        model, revision = _base_of(adapter)
        template = template or _recorded_template(adapter)
    if model == DEMO:
        model = str(results / folder_name(settings))
        if not Path(model).is_dir():
            raise ModelLoadError(
                f"{name} needs the demo model, which is not trained yet; `heretic run` trains it"
            )
    if is_local(model):
        revision = None
    try:
        config = check_model(model, revision)
    except ModelLoadError as error:
        of_adapter = "" if adapter is None else f"the base model of the adapter {name}: "
        raise ModelLoadError(f"{of_adapter}{error}") from error
    form: str = settings.quantization
    if stored_quantization(config) is not None:
        form = DEQUANTIZE if form == DEQUANTIZE else AS_IS
    elif form in (AS_IS, DEQUANTIZE):
        form = NONE
    check_package(form)
    return Candidate(name, model, resolve_revision(model, revision), form, adapter, template)


def _base_of(adapter: Path) -> tuple[str, str | None]:
    """Return the base model of an adapter and its revision."""
    config = read_json(adapter / ADAPTER_CONFIG, GIVEN)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelLoadError(
            f"{adapter / ADAPTER_CONFIG} does not name a base model; set base_model_name_or_path "
            "in it"
        )
    if not (adapter / WEIGHTS).is_file():
        raise ModelLoadError(f"{adapter} has no {WEIGHTS}; copy the adapter again or recreate it")
    return base, revision


def _recorded_template(adapter: Path) -> str | None:
    """Return the chat template used in the search of our edit, if not the model's own."""
    record = adapter / RECORD
    return read_record(record)[1].chat_template if record.is_file() else None


def load_sets(
    sources: Mapping[str, Sequence[PromptSource]], seed: int, planted: PlantedName
) -> dict[str, LoadedPrompts]:
    """Return the prompts of each set, without overlaps; the demo's prompts depend on `planted`.

    Raises:
        PromptError: a source is invalid or has no prompts, or sets overlap.
    """
    check_sources(sources)
    loaded = {
        name: read_sources(several, seed=seed, planted=planted) for name, several in sources.items()
    }
    check_disjoint({name: found.prompts for name, found in loaded.items()})
    return loaded

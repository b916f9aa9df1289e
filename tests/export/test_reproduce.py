"""A saved model is made again from its own record and the base model, byte for byte."""

import base64
import json
import math
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from dated_templates import DATED, DAY, TOMORROW, record_rendered, set_today
from edit_fixtures import export, hashes, plan
from safetensors.torch import load_file, save_file
from tiny_models import D_MODEL, LAYERS, save_tiny_model
from transformers import AutoTokenizer

from heretic.ablation.parameters import AblationParameters, KernelParameters
from heretic.artifacts import read_json, write_json
from heretic.errors import ExportError, ModelLoadError
from heretic.export.record import Ablation
from heretic.export.reproduce import reproduce
from heretic.model.stream_writers.components import ATTENTION, MLP
from heretic.settings.schema import Settings

torch.set_num_threads(1)
SETTINGS = Settings(device="cpu")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "base", "gpt2", dtype=torch.bfloat16)


def saved(base: Path, **settings: Any) -> Path:
    """A saved model's record, moved to where nothing else of the run is."""
    ablation = plan(base, max_shard_size="40KB", **settings)
    folder = export(ablation, base, base.with_name("model"), low_memory=True)
    return folder / "ablation.json"


def changed(record: Path, **changes: Any) -> Path:
    write_json(record, {**read_json(record), **changes})
    return record


@pytest.mark.parametrize(
    ("low_memory", "k"), [("true", 1), ("false", 1), ("auto", 1), ("true", 2), ("false", 2)]
)
@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_gives_the_same_files(
    tmp_path: Path, base: Path, form: str, low_memory: Literal["true", "false", "auto"], k: int
) -> None:
    record = saved(base, export=form, k=k)
    alone = shutil.copyfile(record, tmp_path / "alone.json")
    settings = Settings(device="cpu", low_memory_export=low_memory)
    compared = reproduce(alone, tmp_path / "again", settings)
    assert hashes(tmp_path / "again") == hashes(record.parent)
    assert len(compared) == len(list(record.parent.iterdir())) - 1


def test_a_tent_is_saved_with_its_strengths_and_made_again(tmp_path: Path, base: Path) -> None:
    tents = {
        ATTENTION: KernelParameters(0.5, 1.5, 0.2, 1.0),
        MLP: KernelParameters(0.0, 0.0, 1.0, 1.0),
    }
    parameters = AblationParameters("per_layer", None, tents)
    record = saved(base, parameters=parameters)
    strengths = parameters.strengths(LAYERS)[ATTENTION]
    edits = read_json(record)["edits"]
    assert {edit["component"] for edit in edits} == {ATTENTION}
    assert [edit["strengths"] for edit in edits] == [[strengths[e["layer"]]] for e in edits]
    assert len(set(strengths)) > 1
    reproduce(shutil.copyfile(record, tmp_path / "alone.json"), tmp_path / "again", SETTINGS)
    assert hashes(tmp_path / "again") == hashes(record.parent)


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, base: Path) -> None:
    record = saved(base)
    own = tmp_path / "mine"
    own.mkdir()
    reproduce(record, own, SETTINGS)
    reproduce(record, own, SETTINGS)  # an earlier export may be
    (own / "ablation.json").unlink()
    with pytest.raises(
        ExportError, match=r"mine exists and is not an exported model; choose another"
    ):
        reproduce(record, own, SETTINGS)
    with pytest.raises(ExportError, match="holds the model to be rebuilt"):
        reproduce(record, record.parent, SETTINGS)
    assert record.is_file()


@pytest.mark.parametrize("low_memory", ["true", "false"])
def test_a_chat_template_that_was_given_is_part_of_the_model(
    tmp_path: Path, base: Path, low_memory: Literal["true", "false"]
) -> None:
    record = saved(base, chat_template="{{ messages }} of mine")
    assert AutoTokenizer.from_pretrained(record.parent).chat_template == "{{ messages }} of mine"
    settings = Settings(device="cpu", low_memory_export=low_memory)
    reproduce(record, tmp_path / "again", settings)
    assert hashes(tmp_path / "again") == hashes(record.parent)


@pytest.mark.parametrize("low_memory", ["true", "false"])
def test_the_date_of_the_prompts_is_recorded_and_used_again(
    tmp_path: Path,
    base: Path,
    low_memory: Literal["true", "false"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model is loaded by what its network says to a prompt."""
    (base / "chat_template.jinja").write_text(DATED["in_macro"])
    set_today(monkeypatch, DAY)
    record = saved(base)
    assert read_json(record)["template_date"] == "2024-07-04"
    set_today(monkeypatch, TOMORROW)
    rendered = record_rendered(monkeypatch)
    settings = Settings(device="cpu", low_memory_export=low_memory)
    reproduce(record, tmp_path / "again", settings)
    assert hashes(tmp_path / "again") == hashes(record.parent)
    assert all("Current date: 2024-07-04" in text for text in rendered)
    assert bool(rendered) is (low_memory == "false")


def test_a_record_from_before_dates_is_read(tmp_path: Path, base: Path) -> None:
    record = saved(base)
    now = read_json(record)
    assert now.pop("template_date") is None
    write_json(record, now)
    reproduce(record, tmp_path / "again", SETTINGS)


def test_other_settings_than_those_of_the_record_do_not_matter(tmp_path: Path, base: Path) -> None:
    record = saved(base, norm_preservation="column")
    settings = Settings(
        device="cpu", norm_preservation="row", max_shard_size="1GB", dtype="float32"
    )
    reproduce(record, tmp_path / "again", settings)


def test_a_base_model_that_moved(tmp_path: Path, base: Path) -> None:
    record = saved(base)
    moved = base.rename(tmp_path / "moved")
    reproduce(record, tmp_path / "again", SETTINGS, base_model=str(moved))


def test_another_base_model_is_refused(tmp_path: Path, base: Path) -> None:
    record = saved(base)
    stored = load_file(base / "model.safetensors")
    stored["transformer.wte.weight"][3, 4] += 1
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="differ from the ones that were edited"):
        reproduce(record, tmp_path / "again", SETTINGS)


def test_files_that_differ_are_named_and_never_take_the_targets_place(
    tmp_path: Path, base: Path
) -> None:
    record, again = saved(base), tmp_path / "again"
    reproduce(record, again, SETTINGS)
    good = hashes(again)
    edits = read_json(record)["edits"]
    edits[0]["strengths"][0] += 0.5
    changed(record, edits=edits)
    with pytest.raises(ExportError, match=r"1 of \d+ files differ: model-0000\d-of-0000\d\.safet"):
        reproduce(record, again, SETTINGS)
    assert hashes(again) == good
    assert (tmp_path / "again.differs" / "config.json").is_file()


def test_other_versions_are_told(tmp_path: Path, base: Path) -> None:
    record = saved(base)
    files = {**read_json(record)["files"], "config.json": {"sha256": "0" * 64, "bytes": 1}}
    changed(record, files=files, provenance={"versions": {"transformers": "4.0.0"}})
    with pytest.raises(ExportError, match=r"config\.json; it was built with transformers 4\.0\.0"):
        reproduce(record, tmp_path / "again", SETTINGS)


@pytest.mark.parametrize("place", ["demo/model", "demo/picks/trial-12/model"])
def test_the_demo_model_is_found_beside_its_runs(tmp_path: Path, base: Path, place: str) -> None:
    record = saved(base)
    changed(record, source={**read_json(record)["source"], "model": "demo"})
    results, moved = tmp_path / "results", tmp_path / "results" / place
    moved.parent.mkdir(parents=True)
    record = record.parent.rename(moved) / "ablation.json"
    with pytest.raises(
        ModelLoadError, match=rf"is not in {results}; rerun .* or specify its folder"
    ):
        reproduce(record, tmp_path / "again", SETTINGS)
    reproduce(record, tmp_path / "again", SETTINGS, base_model=str(base))
    save_tiny_model(results / "demo-model", "llama")  # of other options
    base.rename(results / "demo-model-seed1")
    reproduce(record, tmp_path / "again", SETTINGS)
    assert hashes(tmp_path / "again") == hashes(moved)


OWN_FILES = ["thesis.txt", "deep/thesis.txt", "config.json", "README.md", "own", "link"]


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_folder_with_files_of_the_user_is_not_replaced(
    tmp_path: Path, base: Path, name: str
) -> None:
    record, own = saved(base), tmp_path / "mine"
    reproduce(record, own, SETTINGS)
    place = own / name
    place.parent.mkdir(exist_ok=True)
    if name == "own":
        place.mkdir()
    elif name == "link":
        place.symlink_to(own / "config.json")
    elif place.exists():  # of the size that the record says
        place.write_text(place.read_text().replace('"', "'"))
    else:
        place.write_text("mine")
    before = hashes(own)
    with pytest.raises(ExportError, match=rf"mine/{name.split('/')[0]}.* does not belong to the"):
        reproduce(record, own, SETTINGS)
    assert hashes(own) == before


def test_a_link_or_the_base_model_is_no_target(tmp_path: Path, base: Path) -> None:
    record, link = saved(base), tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(ExportError, match="link is a link or a file"):
        reproduce(record, link, SETTINGS)
    shutil.copyfile(record, base / "ablation.json")  # as if it had been edited before
    with pytest.raises(ExportError, match=r"does not belong|holds the base model"):
        reproduce(record, base, SETTINGS)
    assert (base / "model.safetensors").is_file()


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nope\.json: there is no such file; check the path$"):
        reproduce(tmp_path / "nope.json", tmp_path / "again", SETTINGS)


def test_what_a_record_says_of_its_date_is_passed_on(tmp_path: Path, base: Path) -> None:
    record = changed(saved(base), template_date="2026-11-30")
    reproduce(record, tmp_path / "again", SETTINGS)
    assert read_json(tmp_path / "again" / "ablation.json")["template_date"] == "2026-11-30"


EDIT = {
    "name": "transformer.h.0.mlp.c_proj",
    "layer": 0,
    "component": "mlp.down_proj",
    "transposed": True,
    "bias": True,
    "direction": "layer 0",
}


NAN = base64.b64encode(struct.pack("<f", math.nan) * D_MODEL).decode()
LONG = base64.b64encode(struct.pack(f"<{D_MODEL}f", 2.0, *[0.0] * (D_MODEL - 1))).decode()
NARROW = base64.b64encode(struct.pack("<4f", 1.0, 0.0, 0.0, 0.0)).decode()


def stored(data: str) -> dict[str, Any]:
    return {"shape": [1, D_MODEL], "data": data}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"edits": [{"layer": 1}]}, r"edits\.0\.name: Field required"),
        ({"dtype": "float99"}, "dtype: Input should be 'bfloat16', 'float16'"),
        ({"export": "zip"}, "export: Input should be 'merged', 'adapter' or 'quantized'"),
        ({"norm_preservation": 3}, "norm_preservation: Input should be"),
        ({"max_shard_size": "1 ton"}, "max_shard_size: String should match"),
        ({"max_shard_size": "0KB"}, "max_shard_size is 0"),
        ({"chat_template": "x" * 1_000_001}, "chat_template: String should have at most"),
        ({"template_date": "yesterday"}, "template_date: "),
        ({"directions": {}}, "there are no directions 'layer 0'"),
        ({"directions": {"layer 0": stored(NAN)}}, "non-finite"),
        ({"directions": {"layer 0": stored(LONG)}}, "not orthonormal"),
        ({"directions": {"layer 0": LONG}}, "directions have no shape"),
        ({"edits": [{**EDIT, "strengths": [1.0, 2.0]}]}, "2 strengths, 1 directions"),
        ({"edits": [{**EDIT, "strengths": [math.inf]}]}, "non-finite"),
        (
            {"edits": [{**EDIT, "strengths": ["1"]}]},
            r"strengths\.0: Input should be",
        ),
        ({"edits": [{**EDIT, "strengths": [1.0]}] * 2}, "a parameter is edited twice"),
        ({"edits": [{**EDIT, "strengths": [1.0], "layer": -7}]}, r"edits\.0\.layer: "),
        ({"edits": [{**EDIT, "strengths": [1.0], "layer": 7}]}, "of layer 7, .* does not fit the"),
        ({"edits": [{**EDIT, "strengths": [1.0], "layer": 1}]}, "of layer 1, .* does not fit the"),
        ({"edits": [{**EDIT, "strengths": [1.0], "experts": 10**9}]}, r"edits\.0\.experts: "),
        ({"edits": [{**EDIT, "strengths": [1.0], "experts": 4}]}, "does not fit the base model"),
        (
            {"edits": [{**EDIT, "strengths": [1.0], "name": "transformer.h.0.ln_2"}]},
            "ln_2.weight of layer 0, .* does not fit the base model with 3 layers and 32 channels",
        ),
        (
            {
                "edits": [{**EDIT, "strengths": [1.0]}],
                "directions": {"layer 0": {"shape": [1, 4], "data": NARROW}},
            },
            "along directions of 4 channels, does not fit the base model with 3 layers and 32",
        ),
        ({"source": None}, "source: Input should be a valid dictionary"),
        ({"source": {"model": 5, "revision": None, "sha256": "0" * 64}}, r"source\.model: "),
        ({"files": {}}, "files: Dictionary should have at least 1 item"),
        ({"files": {"../x": {"sha256": "0" * 64, "bytes": 1}}}, "not a plain relative path"),
        ({"files": {"x": {"sha256": "0" * 63, "bytes": 1}}}, r"files\.x\.sha256: String should"),
        ({"provenance": {"versions": {"torch": 5}}}, r"provenance\.versions\.torch: "),
        ({"trial": math.nan}, "a number is non-finite"),
        ({"trial": json.loads("[" * 50 + "]" * 50)}, "nested too deeply"),
        ({"trial": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_a_damaged_record_is_one_line(
    tmp_path: Path, base: Path, broken: dict[str, Any], words: str
) -> None:
    """Before any work: nothing is written."""
    record = saved(base)
    record.write_text(json.dumps({**read_json(record), **broken}))
    with pytest.raises(ExportError, match=words) as caught:
        reproduce(record, tmp_path / "again", SETTINGS)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("again*"))


@pytest.mark.parametrize("k", [1, 3])
def test_the_record_is_read_back_as_it_was(base: Path, k: int) -> None:
    ablation = plan(base, k=k)
    text = json.dumps(ablation.to_dict())
    again = Ablation.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    for one, other in zip(ablation.edits, again.edits, strict=True):
        assert one.directions.equal(other.directions)
        assert one.directions.shape == (k, D_MODEL)
        assert (one.writer, one.strengths) == (other.writer, other.strengths)


def test_directions_that_all_layers_share_are_written_once(base: Path) -> None:
    ablation = plan(base, k=2)
    everywhere = ablation.edits[0].directions
    edits = tuple(replace(edit, directions=everywhere) for edit in ablation.edits)
    record = replace(ablation, edits=edits).to_dict()
    assert record["directions"].keys() == {"encoding", "everywhere"}
    assert record["directions"]["everywhere"]["shape"] == [2, D_MODEL]
    assert record["edits"][0]["strengths"] == [1.2, 0.6]


@pytest.mark.parametrize("changes", [{"format": 2}, {"format": None}])
def test_a_record_of_another_format_is_refused(
    tmp_path: Path, base: Path, changes: dict[str, Any]
) -> None:
    record = saved(base)
    changed(record, **changes)
    with pytest.raises(ExportError, match="format: Input should be 1"):
        reproduce(record, tmp_path / "again", SETTINGS)

"""Records, model cards and adapters of strangers: a good export, changed field by field."""

import base64
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

from edit_fixtures import export, plan
from tiny_models import D_MODEL, load_saved, save_tiny_model

from heretic.artifact_types import Best
from heretic.artifacts import read_json, write_json
from heretic.export.adapter import attach_adapter
from heretic.export.model_card import model_card
from heretic.export.record_file import read_owner
from heretic.export.reproduce import reproduce
from heretic.export.source_card import inherited_metadata
from heretic.settings.schema import Settings
from malformed.case import Case

DEEP = 100_000
REMOVED = object()
Change = Callable[[dict[str, Any]], object]

# By the place of a field in the record, values that it cannot have.
TEXTS: list[Any] = [None, 5, "", "x" * 10_000, "\x1b]52;c;AAAA\x07", ["a"], {"a": 1}, True]
NUMBERS: list[Any] = [None, "1", True, 1e400, float("nan"), -(10**9), 10**400, 10**9, [1], {}]
CONTAINERS: list[Any] = [None, 5, "text", True, [[]], {"x": {}}]
BAD_VALUES: dict[tuple[str | int, ...], list[Any]] = {
    ("norm_preservation",): TEXTS,
    ("dtype",): [*TEXTS, "float8_e4m3fn", "nn", "int8", "Tensor"],
    ("export",): [*TEXTS, "zip", "adapter"],
    ("max_shard_size",): [*TEXTS, "1 ton", "0KB", "-1GB", "1e9GB", "9" * 400 + "KB", "0.0000001KB"],
    ("chat_template",): [5, ["a"], {"a": 1}, True, "x" * 2_000_000, "{{", "{{ 1/0 }}"],
    ("template_date",): [5, "yesterday", "2026-13-40", "9" * 1000, []],
    ("source",): CONTAINERS,
    ("source", "model"): [*TEXTS, "~nobody-at-all/x", "./none", "/" + "a" * 4000, "\0", "demo"],
    ("source", "revision"): [5, ["a"], True, "x" * 10_000, "\n"],
    ("source", "sha256"): [*TEXTS, "0" * 64, "Z" * 64, "0" * 63],
    ("files",): [*CONTAINERS, {}],
    ("files", "config.json"): [*CONTAINERS, {}, {"sha256": "0" * 64, "bytes": -1}],
    ("files", "../../x"): [{"sha256": "0" * 64, "bytes": 1}],
    ("files", "/etc/passwd"): [{"sha256": "0" * 64, "bytes": 1}],
    ("files", "a\nb"): [{"sha256": "0" * 64, "bytes": 1}],
    ("files", "\x1b[2J"): [{"sha256": "0" * 64, "bytes": 1}],
    ("files", "none.json"): [{"sha256": "0" * 64, "bytes": 1}],
    ("provenance",): CONTAINERS,
    ("provenance", "versions"): [None, 5, [1], {"torch": 5}, {"torch": "\x1b[2J" * 100}],
    ("edits",): [*CONTAINERS, {"0": {}}],
    ("edits", 0): CONTAINERS,
    ("edits", 0, "name"): [
        *TEXTS,
        "lm_head",
        "transformer.h.0.ln_1",
        "..",
        "a b",
        "transformer.wpe",
    ],
    ("edits", 0, "layer"): [*NUMBERS, -7, 1, 3, 1.5],
    ("edits", 0, "component"): [*TEXTS, "embed", "mlp.up_proj"],
    ("edits", 0, "transposed"): [None, 1, "true", False, []],
    ("edits", 0, "bias"): [None, 1, "true", False, []],
    ("edits", 0, "parameter"): [5, "", "transformer.wte.weight", "transformer.ln_f.weight", []],
    ("edits", 0, "bias_parameter"): [5, "", "transformer.wte.weight", []],
    ("edits", 0, "experts"): [0, -1, 4, 10**9, "2", 1.5, True, []],
    ("edits", 0, "gain"): [5, "AAAA", []],
    ("edits", 0, "strengths"): [*NUMBERS, [], [1.0, 2.0], ["1"], [float("inf")], [None], [1e308]],
    ("edits", 0, "strength"): [1.0],
    ("edits", 0, "direction"): [*TEXTS, "encoding", "layer 99"],
    ("directions",): CONTAINERS,
    ("parameters",): [float("nan"), float("inf")],
    ("trial",): ["\ud800", float("-inf")],
}


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="malformed-records-")


@cache
def _good() -> tuple[Path, Path, Path]:
    """A base model, a merged export of it, and an adapter."""
    folder = Path(_scratch().name)
    base = save_tiny_model(folder / "base", "gpt2")
    merged = export(plan(base), base, folder / "model", low_memory=True)
    adapter = export(plan(base, export="adapter"), base, folder / "adapter", low_memory=True)
    record = read_json(merged / "ablation.json")
    facts = {"trial": 1, "parameters": {}, "provenance": {"settings": {}, "versions": {}}}
    write_json(merged / "ablation.json", {**facts, **record})
    return base, merged, adapter


def cases() -> Iterator[Case]:
    """Yield every malformed record, model card and adapter."""
    record = read_json(_good()[1] / "ablation.json")
    yield from _record_cases(record)
    for name, text in _record_texts(record):
        yield Case(f"record: {name}", partial(_reproduce_text, text))
    for name, path in _targets():
        yield Case(f"reproduce target: {name}", path)
    for name, data in _cards():
        yield Case(f"card: {name}", partial(_read_card, data))
    for name, config in _adapters():
        yield Case(f"adapter: {name}", partial(_attach, config))


def _record_cases(record: Mapping[str, Any]) -> Iterator[Case]:
    for place, values in BAD_VALUES.items():
        for number, value in enumerate([*values, REMOVED]):
            changed = deepcopy(dict(record))
            if not _put(changed, place, value):
                continue
            shown = "removed" if value is REMOVED else ascii(value)[:30]
            name = f"record: {'.'.join(map(ascii, place))} {number} {shown}"
            yield Case(name, partial(_reproduce_text, json.dumps(changed)))


def _put(values: Any, place: tuple[str | int, ...], value: object) -> bool:
    """Set or remove a field; False if there is nothing to remove."""
    for key in place[:-1]:
        values = values[key]
    if value is not REMOVED:
        values[place[-1]] = value
        return True
    known = place[-1] in values if isinstance(values, dict) else True
    if known:
        del values[place[-1]]
    return known


def _record_texts(record: Mapping[str, Any]) -> Iterator[tuple[str, str | bytes]]:
    edits, directions = record["edits"], record["directions"]
    key = edits[0]["direction"]
    yield "empty", ""
    yield "a list", "[]"
    yield "text", "x" * 1000
    yield "no text", b"\xff\xfe\x00"
    yield "cut off", json.dumps(record)[:-200]
    yield "deep list", "[" * DEEP
    yield "deep object", '{"a":' * DEEP
    yield "deep fact", json.dumps(record)[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"
    yield (
        "deep parameters",
        json.dumps({**record, "parameters": None}).replace(
            '"parameters": null', '"parameters": ' + '{"a":' * 500 + "1" + "}" * 500
        ),
    )
    yield "a number of many digits", json.dumps(record)[:-1] + ', "x": ' + "9" * 100_000 + "}"
    yield "an edit 100,000 times", json.dumps({**record, "edits": edits[:1] * 100_000})
    yield "an edit twice", json.dumps({**record, "edits": edits + edits[:1]})
    names = [{**edits[0], "name": f"m{n}"} for n in range(50_000)]
    yield "50,000 matrices", json.dumps({**record, "edits": names})
    files = {f"f{n}": {"sha256": "0" * 64, "bytes": 1} for n in range(50_000)}
    yield "50,000 files", json.dumps({**record, "files": files})
    yield "no edits", json.dumps({**record, "edits": []})
    for name, stored in _directions():
        changed = {**directions, key: stored}
        yield f"directions: {name}", json.dumps({**record, "directions": changed})


def _directions() -> Iterator[tuple[str, Any]]:
    def rows(*values: float) -> str:
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()

    unit = [1.0, *[0.0] * (D_MODEL - 1)]
    yield "none", None
    yield "not base64", "ä" * 40
    yield "odd bytes", "AAA="
    yield "NaN", rows(*[float("nan")] * D_MODEL)
    yield "infinite", rows(float("inf"), *unit[1:])
    yield "zero", rows(*[0.0] * D_MODEL)
    yield "long", rows(*[3e38] * D_MODEL)
    yield "narrow", rows(1.0, 0.0)
    yield "wide", rows(*unit, *[0.0] * D_MODEL)
    yield "the same twice", {"shape": [2, D_MODEL], "data": rows(*unit, *unit)}
    for shape in (
        [1, -1],
        [0, D_MODEL],
        [10**9, 10**9],
        [D_MODEL],
        [1, 1, D_MODEL],
        "x",
        None,
        [1.0],
    ):
        yield f"shape {shape}", {"shape": shape, "data": rows(*unit)}
    yield "further keys", {"shape": [1, D_MODEL], "data": rows(*unit), "x": 1}


def _reproduce_text(text: str | bytes, folder: Path) -> None:
    path = folder / "ablation.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    reproduce(path, folder / "again", Settings(device="cpu"))


def _targets() -> Iterator[tuple[str, Callable[[Path], None]]]:
    def target(make: Callable[[Path], Path], folder: Path) -> None:
        record = _good()[1] / "ablation.json"
        reproduce(record, make(folder), Settings(device="cpu"))

    def link(folder: Path) -> Path:
        (folder / "t").symlink_to(_good()[0])
        return folder / "t"

    def file(folder: Path) -> Path:
        (folder / "t").write_text("mine")
        return folder / "t"

    def foreign(folder: Path) -> Path:
        shutil.copytree(_good()[1], folder / "t")
        (folder / "t" / "thesis.txt").write_text("mine")
        return folder / "t"

    def odd_record(folder: Path) -> Path:
        (folder / "t").mkdir()
        (folder / "t" / "ablation.json").write_text("[" * DEEP)
        return folder / "t"

    def partial_link(folder: Path) -> Path:
        (folder / ".t.partial").symlink_to(_good()[0])
        return folder / "t"

    def partial_folder(folder: Path) -> Path:
        (folder / ".t.differs.partial" / "mine").mkdir(parents=True)
        return folder / "t"

    def below_a_file(folder: Path) -> Path:
        return file(folder) / "x"

    makers = (link, file, foreign, odd_record, partial_link, partial_folder, below_a_file)
    for make in makers:
        yield make.__name__, partial(target, make)
    fixed = {"the root": Path("/"), "a long name": Path("a" * 300), "the base model": _good()[0]}
    for name, path in fixed.items():
        yield name, partial(target, partial(_fixed, path))

    def missing(folder: Path) -> None:
        reproduce(folder / "nope.json", folder / "t", Settings(device="cpu"))

    def owner(folder: Path) -> None:
        (folder / "ablation.json").write_text('{"source": {"model": 5}}')
        read_owner(folder / "ablation.json")

    yield "no record", missing
    yield "the owner of a run's folder", owner


def _fixed(path: Path, _: Path) -> Path:
    return path


def _cards() -> Iterator[tuple[str, bytes]]:
    fields = ("license", "language", "tags", "license_name", "library_name", "pipeline_tag")
    values = (
        *("2024-01-01", ".nan", ".inf", "!!binary aGk=", "!!set {a, b}", "5", "~", "no", "{a: b}"),
        *("[2024-01-01]", "[[a]]", "[{a: b}]", "[~]", '"\\ud800"', '"\\e[2J"', '"\\n---\\n"'),
        *("!!python/name:os.system x", "!!timestamp x", "!!int x", "&a [*a]", "<<: {a: b}", "[a"),
        *("x" * 10_000, "99999-99-99", "2024-99-99"),
    )
    for field in fields:
        for number, value in enumerate(values):
            yield f"{field} {number} {value[:20]}", f"---\n{field}: {value}\n---\n".encode()
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(n + 1)}: &{chr(n + 1)} [{','.join([f'*{chr(n)}'] * 9)}]\n" for n in range(97, 115)
    )
    texts = {
        "alias bomb": f"---\n{bomb}tags: *s\n---\n",
        "recursive": "---\ntags: &a [*a]\n---\n",
        "100,000 tags": "---\ntags:\n" + "- a\n" * 100_000 + "---\n",
        "deep": f"---\ntags: {'[' * 5000}\n---\n",
        "very deep": f"---\ntags: {'[' * DEEP}\n---\n",
        "deep blocks": "---\n" + "".join(f"{' ' * n}a:\n" for n in range(300)) + "---\n",
        "a megabyte": f"---\nlicense: {'m' * 10**6}\n---\n",
        "no end": "---\n" + "license: mit\n" * 50_000,
        "only fences": "---\n" * 20_000,
        "blank": "\n" * 10**6,
        "unhashable key": "---\n? [a]\n: b\n---\n",
        "two documents": "---\na: b\n...\n--- c\n---\n",
        "tabs": "---\n\tlicense: mit\n---\n",
        "text": "---\nplain\n---\n",
    }
    for name, text in texts.items():
        yield name, text.encode()
    yield "no UTF-8", b"---\nlicense: \xff\xfe\n---\n"
    yield "NUL", b"---\nlicense: \0\n---\n"


def _read_card(data: bytes, folder: Path) -> None:
    """As an export does, up to the new card."""
    (folder / "README.md").write_bytes(data)
    card = inherited_metadata(folder)
    record = read_json(_good()[1] / "ablation.json")
    record["source"]["card"] = card
    write_json(folder / "ablation.json", record)
    facts: dict[str, Any] = {"versions": {}, "settings": {}}
    rates = {"count": 1, "total": 2, "rate": 0.5, "interval": [0.0, 1.0]}
    means = {"mean": 0.0, "interval": [0.0, 1.0]}
    row: dict[str, Any] = dict.fromkeys(("refusals", "false_refusals", "degenerate"), rates)
    row |= dict.fromkeys(("kl_first_token", "kl_teacher_forced"), means)
    evaluation = {"original": row, "edited": row, "controls": {"noop": row}}
    best = Best(
        trial=1, n_trials=2, rule="knee", selection="knee", parameters={}, scores={},
        search_scores={}, baseline={}, model={}, objectives=[], study="a",
        strengths={"mlp.down_proj": [1.0]}, directions={"scope": "per_layer", "index": None},
    )  # fmt: skip
    whole = {**record, "parameters": {}, "provenance": facts}
    (folder / "card.md").write_text(model_card(whole, evaluation, best, {}, ""), encoding="utf-8")


def _adapters() -> Iterator[tuple[str, dict[str, Any] | str]]:
    fields: dict[str, list[Any]] = {
        "target_modules": ["((", "(a+)+$", "(.*)*x", ".*", 5, [], [5], ["none"], None, {}],
        "exclude_modules": ["((", "(.*)*x", 5, ["*"]],
        "trainable_token_indices": [[10**9], "x", {"a": "b"}, [-1], {"wte": [10**9]}],
        "peft_type": ["NOPE", 5, None, "PREFIX_TUNING", "IA3", "LOHA", "VERA", "BONE", []],
        "r": [0, -1, "x", None, 10**9, 1.5, 3, {}],
        "lora_alpha": ["x", None, [], float("nan")],
        "rank_pattern": [5, {"((": 1}, {"(.*)*x": 1}, {"c_proj": 10**9}, {"c_proj": "x"}],
        "alpha_pattern": [5, {"((": 1}, {"(.*)*x": 1}, {"c_proj": "x"}],
        "bias": ["x", 5, "all"],
        "modules_to_save": [5, "x", ["none"], [5]],
        "init_lora_weights": ["x", "pissa", "eva", "loftq", 5, "pissa_niter_x", "corda"],
        "layers_to_transform": [5, "x", [10**9], [-1]],
        "layers_pattern": ["((", 5],
        "layer_replication": [[[0, 10**6]], 5, [[0]], "x"],
        "target_parameters": [["none"], 5, "x"],
        "fan_in_fan_out": ["x", None],
        "use_dora": [True, "x"],
        "use_rslora": ["x"],
        "task_type": ["x", 5],
        "lora_dropout": ["x", 5, -1],
        "loftq_config": [5, {"x": 1}],
        "runtime_config": [5, {"x": 1}],
        "auto_mapping": [{"base_model_class": "system", "parent_library": "os"}, 5],
        "unknown_field": [1],
    }  # fmt: skip
    for field, values in fields.items():
        for number, value in enumerate(values):
            yield f"{field} {number} {ascii(value)[:30]}", {field: value}
    for name, text in {
        "empty": "", "a list": "[]", "deep": "[" * DEEP, "NaN": "NaN", "empty object": "{}",
        "no text": "\udcff",
    }.items():  # fmt: skip
        yield f"config {name}", text


def _attach(change: dict[str, Any] | str, folder: Path) -> None:
    base, _, adapter = _good()
    stranger = Path(shutil.copytree(adapter, folder / "adapter"))
    config = stranger / "adapter_config.json"
    if isinstance(change, str):
        config.write_bytes(change.encode(errors="surrogateescape"))
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    attach_adapter(load_saved(base), stranger)

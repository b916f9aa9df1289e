"""Hubs, mirrors and proxies that answer what no hub should: for models and datasets."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from malformed.case import Case
from malformed.evil_hub import Answer, Change, endless, evil_hub, set_endpoint

MODEL_FILES = {
    "config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
}
DATASET_FILES = {"README.md": b"---\nlicense: mit\n---\n", "train.jsonl": b'{"text": "Why?"}\n'}
ESCAPES = ("../../../../../escaped", "/abs/escaped", "a" * 39, "A" * 40, "c" * 65, "", ".", "%2e")
FILE_NAMES: tuple[Any, ...] = (
    *("../../escaped", "/abs/escaped.json", "a/../../../escaped", "", ".."),
    *("..\\..\\escaped", 5, None, ["a"], "nul\0byte"),
)
BODIES: tuple[bytes, ...] = (
    *(b"[]", b"null", b"5", b'"text"', b"", b"{", b"<html>log in</html>", b"\xff\xfe\x00"),
    *(b"[" * 100_000, b'{"sha": 5}', b'{"sha": "../../x"}', b'{"siblings": 5}', b"[null]"),
    *(b'[{"path": "a"}]', b'{"siblings": [{}]}', b'{"sha": "' + b"c" * 40 + b'", "siblings": [5]}'),
)


def cases() -> Iterator[Case]:
    """Each fault of the answers, met by the lookup of a model, its download, and a dataset."""
    for name, change in faults():
        yield Case(f"lookup: {name}", partial(_with_hub, change, MODEL_FILES, _look_up))
        yield Case(f"snapshot: {name}", partial(_with_hub, change, MODEL_FILES, _download))
        yield Case(f"dataset: {name}", partial(_with_hub, change, DATASET_FILES, _read_dataset))
    for name, change in streaming_faults():
        yield Case(f"stream: {name}", partial(_with_hub, change, DATASET_FILES, _read_stream))
    for name, change in sizes():
        yield Case(f"size: {name}", partial(_with_hub, change, MODEL_FILES, _ask_size))
    for name, files in datasets():
        yield Case(f"dataset of {name}", partial(_with_hub, _nothing, files, _read_dataset))
    for call in (_look_up, _download, _read_dataset, _read_stream):
        yield Case(f"no hub at all: {call.__name__}", partial(_without_hub, call))


def _offer_xet(answer: Answer) -> None:
    """Name an address where nothing is; whoever asks for the file there has no limits."""
    answer.headers["X-Xet-Hash"] = "e" * 64
    answer.headers["X-Xet-Refresh-Route"] = "http://127.0.0.1:9/refresh"


def faults() -> Iterator[tuple[str, Change]]:
    """What may be wrong with any answer."""
    yield "nothing wrong", _nothing
    for value in ESCAPES:
        for header in ("ETag", "X-Linked-Etag", "X-Repo-Commit"):
            yield f"{header} {value[:24]!r}", partial(_set_header, header, value)
    yield "Xet offered", _offer_xet
    yield "no ETag", partial(_set_header, "ETag", None)
    yield "no commit", partial(_set_header, "X-Repo-Commit", None)
    for body in BODIES:
        yield f"API says {body[:30]!r}", partial(_api_body, body)
    for file_name in FILE_NAMES:
        yield f"file named {file_name!r}", partial(_file_name, file_name)
    for status in (401, 403, 404, 418, 429, 500, 503):
        yield f"status {status}", partial(_status, status, {})
    yield "Retry-After 100000", partial(_status, 429, {"Retry-After": "100000"})
    yield "Retry-After of 5000 digits", partial(_status, 429, {"Retry-After": "9" * 5000})
    reset = {"RateLimit": '"api";r=0;t=100000'}
    yield "rate limit of a day", partial(_status, 429, reset)
    yield "API and files are HTML", _login_page
    yield "redirect loop", _redirect_loop
    for target in ("file:///etc/passwd", "http://[", "/..//", "ftp://127.0.0.1/x", "", "//"):
        yield f"redirect to {target!r}", partial(_redirect, target)
    yield "endless bodies", partial(_body, endless)
    yield "a byte a second", partial(_body, partial(endless, every=1.0, chunk=b"x"))
    yield "silence", _silence
    yield "headers byte by byte", _slow_headers
    yield "bodies cut", _cut
    yield "connection cut at once", _drop
    yield "length too long", partial(_length, 1000)
    yield "length too short", partial(_length, -1)
    yield "length of 18 digits", partial(_set_header, "Content-Length", "9" * 18)
    yield "length that is text", partial(_set_header, "Content-Length", "many")
    yield "compressed", partial(_set_header, "Content-Encoding", "gzip")


def streaming_faults() -> Iterator[tuple[str, Change]]:
    """Faults of the data itself, while it is streamed."""
    for name, body in (("cut", b'{"text": "a'), ("binary", b"\x00\xff" * 999), ("empty", b"")):
        yield name, partial(_data, body)


def sizes() -> Iterator[tuple[str, Change]]:
    """Statements about the size of a model's weights."""
    value: Any
    for value in (None, 5, "x", [], {"parameters": 5}, {"parameters": {"F32": "many"}, "total": 1}):
        said = {"sha": "c" * 40, "siblings": [], "safetensors": value}
        yield f"safetensors {value!r}", partial(_api_body, json.dumps(said).encode())
    for size in ("many", -5, None, 10**30, [1], 1.5):
        listed = [{"rfilename": "model.safetensors", "size": size}]
        said = {"sha": "c" * 40, "siblings": listed}
        yield f"size {size!r}", partial(_api_body, json.dumps(said).encode())
    lfs: Any
    for lfs in (5, {}, {"sha256": "../../x", "size": 1}, {"size": "x"}, []):
        large = [{"rfilename": "model.safetensors", "lfs": lfs}]
        said = {"sha": "c" * 40, "siblings": large}
        yield f"lfs {lfs!r}", partial(_api_body, json.dumps(said).encode())


def datasets() -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Repositories whose files are malformed."""
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    paths = ("../../x", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x", "~/x",
             "zip://*::https://127.0.0.1:9/x", "s3://a/b", "hf://datasets/o/m/../../x")  # fmt: skip
    cards = {
        "broken YAML": "configs: [",
        "alias bomb": bomb,
        "recursive alias": "configs: &a [*a]",
        "deep nesting": "[" * 100_000,
        "long number": "license: " + "9" * 5000,
        "impossible date": "license: 2024-13-45",
        "list": "- a",
        "text": "just text",
        "configs as number": "configs: 5",
        "configs of numbers": "configs: [5]",
        "configs without a name": "configs: [{data_files: x}]",
        "dataset_info as text": "dataset_info: x",
        "features as text": "dataset_info: {features: x}",
        "features of an unknown type": "dataset_info: {features: [{name: text, dtype: nonsense}]}",
        "splits as number": "dataset_info: {features: [], splits: 5}",
        "python object": "license: !!python/object/apply:os.system [exit]",
        **{f"data_files {path}": f"configs: [{{config_name: default, data_files: '{path}'}}]"
           for path in paths},
        **{f"data_dir {path}": f"configs: [{{config_name: default, data_dir: '{path}'}}]"
           for path in paths[:2]},
    }  # fmt: skip
    for name, front in cards.items():
        card = f"---\n{front}\n---\n".encode()
        yield f"card with {name}", {**DATASET_FILES, "README.md": card}
        yield f"fields with {name}", {**DATASET_FILES, ".huggingface.yaml": front.encode()}
    yield "card of bytes", {**DATASET_FILES, "README.md": b"---\n\xff\xfe\n---\n"}
    yield "card of 5 MB", {**DATASET_FILES, "README.md": b"x" * 5_000_000}
    data = {
        # Not "null": pyarrow 26 ends the process there.
        "train.jsonl": (b"{", b'{"text": 5}\n', b"[]", b"\xff", b"[" * 100_000, b"5\n"),
        "train.csv": (b"a,b\n1", b"text\n\xff\n", b'text\n"', b"\x00"),
        "train.parquet": (b"PAR1", b"PAR1" * 100, b""),
        "train.json": (b"5", b"{}", b"[" * 100_000),
        "train.arrow": (b"ARROW1", b""),
        "train.zip": (b"PK\x03\x04", b""),
        "train.txt": (b"\xff", b""),
        "train.webdataset.tar": (b"x",),
        "train.pkl": (b"x",),
        "o.py": (b"raise SystemExit(3)",),
    }
    for name, bodies in data.items():
        for body in bodies:
            yield f"{name} {body[:20]!r}", {"README.md": b"", name: body}
    yield "no files", {}
    yield "a repository script", {"m.py": b"raise SystemExit(3)", "README.md": b""}


def _nothing(answer: Answer) -> None:
    """Change nothing."""


def _set_header(name: str, value: str | None, answer: Answer) -> None:
    if answer.is_api and name != "Content-Encoding" and "Content" not in name:
        return
    answer.headers.pop(name, None)
    if value is not None:
        answer.headers[name] = value


def _api_body(body: bytes, answer: Answer) -> None:
    if answer.is_api:
        answer.json(body)


def _file_name(name: object, answer: Answer) -> None:
    if not answer.is_api or not isinstance(answer.body, bytes):
        return
    found = json.loads(answer.body)
    if isinstance(found, list):
        extra = {"type": "file", "path": name, "size": 5, "oid": "a" * 40}
        answer.json([*found, extra])
    else:
        answer.json({**found, "siblings": [*found["siblings"], {"rfilename": name}]})


def _status(status: int, headers: Mapping[str, str], answer: Answer) -> None:
    answer.status, answer.body = status, b"<html>no</html>"
    answer.headers = dict(headers)


def _login_page(answer: Answer) -> None:
    answer.status, answer.body = 200, b"<html>Please log in</html>"
    answer.headers = {"Content-Type": "text/html"}


def _redirect_loop(answer: Answer) -> None:
    answer.status, answer.body = 307, b""
    answer.headers = {"Location": answer.path}


def _redirect(target: str, answer: Answer) -> None:
    answer.status, answer.body = 302, b""
    answer.headers = {**answer.headers, "Location": target}


def _body(make: Callable[[], Iterator[bytes]], answer: Answer) -> None:
    answer.status = 200
    answer.body = make()


def _silence(answer: Answer) -> None:
    answer.delay = 60.0


def _slow_headers(answer: Answer) -> None:
    answer.slow_headers = True


def _cut(answer: Answer) -> None:
    answer.cut = 3


def _drop(answer: Answer) -> None:
    raise ConnectionAbortedError


def _length(difference: int, answer: Answer) -> None:
    if isinstance(answer.body, bytes):
        answer.headers["Content-Length"] = str(max(len(answer.body) + difference, 0))


def _data(body: bytes, answer: Answer) -> None:
    if answer.path.endswith(".jsonl"):
        answer.body = body


def _with_hub(
    change: Change, files: Mapping[str, bytes], call: Callable[[], object], folder: Path
) -> None:
    """Make the call with such a hub; nothing may be written outside its cache."""
    cache = folder / "a" / "b" / "c" / "d"
    cache.mkdir(parents=True)
    os.chdir(cache)
    try:
        with evil_hub(cache, files, change):
            call()
    finally:
        found = [path for path in folder.rglob("*") if "escaped" in path.name]
        outside = [path for path in found if (cache / "hf_home") not in path.parents]
        assert not outside, f"written outside the cache: {outside}"
        assert not Path("/abs").exists(), "written outside the cache"


def _without_hub(call: Callable[[], object], folder: Path) -> None:
    set_endpoint("http://127.0.0.1:9", folder)
    call()


def _look_up() -> None:
    from heretic.model.checkpoint import check_model

    check_model("o/m", None)


def _download() -> None:
    from heretic.model.checkpoint import locate

    locate("o/m", None)


def _ask_size() -> None:
    from heretic.model.size import checkpoint_bytes

    checkpoint_bytes("o/m", None, "auto")


def _read_dataset() -> None:
    _read(split="train")


def _read_stream() -> None:
    _read(split="train[:5]", streaming=True)


def _read(**fields: Any) -> None:
    from heretic.prompts.sources import load_prompts
    from heretic.settings.prompt_sources import PromptSource

    load_prompts(PromptSource(dataset="o/m", **fields), seed=0)

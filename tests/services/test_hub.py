"""Prompts from the hub and uploads to it, over HTTP and the unmodified client libraries."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from pyarrow import parquet
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from heretic.errors import UploadError
from heretic.export.upload import check_upload
from services.hub_repos import TOKEN, Fault, sha256
from services.hub_server import HubServer

Client = Callable[..., Any]
COUNT = 50
TEXTS = [f"Question {number}, why?" for number in range(COUNT)]

LOAD = """
from heretic.errors import PromptError
from heretic.prompts.sources import read_source
from heretic.settings.prompt_sources import PromptSource

def read(**fields):
    try:
        read = read_source(PromptSource(**fields), seed=0)
    except PromptError as error:
        return str(error)
    return {"texts": [p.text for p in read.prompts], "facts": read.facts}
"""

UPLOAD = """
from pathlib import Path
from heretic.errors import UploadError
from heretic.export.upload import upload_model

def upload(folder, repo="tester/edited", private=True):
    try:
        return upload_model(Path(folder), repo, private=private, waits=())
    except UploadError as error:
        return str(error)
"""


def _csv_bytes(texts: list[str]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([["number", "text"], *enumerate(texts)])
    return stream.getvalue().encode()


def _jsonl_bytes(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def _parquet_bytes(texts: list[str]) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(arrow.table({"text": texts}), stream)
    return stream.getvalue()


FORMATS = {"csv": _csv_bytes, "jsonl": _jsonl_bytes, "parquet": _parquet_bytes}


def test_hub_dataset_in_slices_and_streamed(hub: HubServer, client: Client) -> None:
    shas = {
        suffix: hub.add(
            "dataset",
            f"owner/{suffix}",
            {f"train.{suffix}": encode(TEXTS), f"test.{suffix}": encode(["A test question"])},
        )
        for suffix, encode in FORMATS.items()
    }
    code = f"""
answer = {{
    suffix: {{
        "slice": read(dataset="owner/" + suffix, split="train[:40]"),
        "rest": read(dataset="owner/" + suffix, split="train[40:]+test"),
        "stream": read(dataset="owner/" + suffix, split="train[10:15]", streaming=True),
    }}
    for suffix in {list(FORMATS)!r}
}}
"""
    answers = client(LOAD + code)["answer"]
    for suffix, sha in shas.items():
        answer = answers[suffix]
        assert answer["slice"]["texts"] == TEXTS[:40]
        assert answer["rest"]["texts"] == [*TEXTS[40:], "A test question"]
        assert answer["stream"]["texts"] == TEXTS[10:15]
        for way in ("slice", "stream"):
            assert answer[way]["facts"]["origin"] == {"revision": sha}


def test_stream_reads_only_what_it_needs(hub: HubServer, client: Client) -> None:
    shard = _jsonl_bytes(["x" * 1000 + str(n) for n in range(2000)])
    hub.add("dataset", "owner/large", {f"train-{n}.jsonl": shard for n in range(10)})
    code = 'answer = read(dataset="owner/large", split="train[:5]", streaming=True)'
    answer = client(LOAD + code)["answer"]
    assert len(answer["texts"]) == 5
    assert 0 < hub.bytes_sent < 3 * len(shard)


def test_hub_dataset_problems_are_one_line(hub: HubServer, client: Client) -> None:
    hub.add("dataset", "owner/gated", {"train.csv": _csv_bytes(TEXTS)}, gated=True)
    hub.add("dataset", "owner/private", {"train.csv": _csv_bytes(TEXTS)}, private=True)
    readme = b"---\nconfigs:\n" + b"".join(
        f"- config_name: {name}\n  data_files: {name}.csv\n".encode() for name in ("en", "de")
    )
    hub.add(
        "dataset",
        "owner/languages",
        {
            "README.md": readme + b"---\n",
            "en.csv": _csv_bytes(TEXTS),
            "de.csv": _csv_bytes(["Ja?"]),
        },
    )
    code = """
answer = {
    "missing": read(dataset="owner/nothing"),
    "gated": read(dataset="owner/gated"),
    "private": read(dataset="owner/private"),
    "config": read(dataset="owner/languages"),
    "german": read(dataset="owner/languages", config="de"),
    "column": read(dataset="owner/languages", config="de", column="prompt"),
    "split": read(dataset="owner/languages", config="de", split="valid[:5]"),
}
"""
    answer = client(LOAD + code, token=None)["answer"]
    assert answer["german"]["texts"] == ["Ja?"]
    advice = {
        "missing": "check the spelling",
        "gated": "accept its terms",
        "private": "hf auth login",
        "config": "'en', 'de'",
        "column": "no column 'prompt'; its columns are: number, text",
        "split": "no split 'valid'; it has train",
    }
    for problem, words in advice.items():
        assert words in answer[problem], answer[problem]
        assert "\n" not in answer[problem]


def test_unreachable_hub_is_one_line(client: Client) -> None:
    code = 'answer = read(dataset="owner/questions")'
    answer = client(LOAD + code, HF_HUB_OFFLINE="1")["answer"]
    assert "unreachable" in answer
    assert "use a local file" in answer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as a saved model is one, hidden files included."""
    folder = tmp_path / "model"
    folder.mkdir()
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    (folder / "model.safetensors").write_bytes(save_tensors({"weight": weight}))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nEdited.\n")
    (folder / ".snakemake_timestamp").write_text("")
    return folder


def test_upload_is_complete_and_is_not_repeated(
    hub: HubServer, client: Client, model: Path
) -> None:
    code = f"""
answer = [upload({str(model)!r}), upload({str(model)!r})]
from huggingface_hub import snapshot_download
answer.append(snapshot_download("tester/edited", revision=answer[0]["commit"]))
"""
    done = client(UPLOAD + code)
    receipt, repeated, fetched = done["answer"]
    repo = hub.repos["model", "tester/edited"]
    assert repo.private
    assert len(repo.commits) == 2, "creation and one upload"
    assert receipt["commit"] == repo.commits[-1][0]
    assert repeated == receipt
    assert receipt["repo"] == "tester/edited"
    assert receipt["url"] == f"{hub.url}/tester/edited"
    assert receipt["private"] is True
    paths = ["README.md", "config.json", "model.safetensors"]
    assert receipt["files"] == [
        {
            "path": path,
            "bytes": (model / path).stat().st_size,
            "sha256": hashlib.sha256((model / path).read_bytes()).hexdigest(),
        }
        for path in paths
    ]
    for path in paths:
        assert (Path(fetched) / path).read_bytes() == (model / path).read_bytes()
    tensors = load_tensors((Path(fetched) / "model.safetensors").read_bytes())
    assert tensors["weight"][2, 3] == 11
    assert len(hub.asked("^PUT /large/")) == 1
    assert TOKEN not in done["output"] + json.dumps(receipt)


CHANGED_MEANWHILE = """
from huggingface_hub import HfApi
send = HfApi.upload_folder

def change_and_send(api, **options):
    (Path(options["folder_path"]) / "NAME").write_bytes(b"something else")
    return send(api, **options)

HfApi.upload_folder = change_and_send
"""


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_change_during_the_upload_are_reported(
    hub: HubServer, client: Client, model: Path, name: str
) -> None:
    code = CHANGED_MEANWHILE.replace("NAME", name) + f"answer = upload({str(model)!r})"
    says = client(UPLOAD + code)["answer"]
    commit = hub.repos["model", "tester/edited"].commits[-1][0]
    assert f"{name} in tester/edited at commit {commit} is not the saved file" in says
    assert "Save the model again and rerun the command" in says


def test_files_that_the_hub_stores_otherwise_are_reported(
    hub: HubServer, client: Client, model: Path
) -> None:
    hub.spoiled.add("config.json")
    says = client(UPLOAD + f"answer = upload({str(model)!r})")["answer"]
    assert "config.json in tester/edited" in says
    assert "is not the saved file" in says


def test_a_saved_model_that_is_not_as_recorded_is_not_sent(
    hub: HubServer, client: Client, model: Path
) -> None:
    """An edit of the card is not a difference, unlike weights from elsewhere."""
    files = {
        name: {"sha256": sha256(path.read_bytes()), "bytes": path.stat().st_size}
        for name in ("model.safetensors", "config.json")
        for path in [model / name]
    }
    record = {
        **{"format": 1, "norm_preservation": "none", "dtype": "float32", "export": "merged"},
        **{"max_shard_size": "5GB", "chat_template": None, "edits": [], "directions": {}},
        "source": {"model": "owner/base", "revision": None, "sha256": "0" * 64},
        "files": files,
    }
    (model / "ablation.json").write_text(json.dumps(record))
    (model / "README.md").write_text("edited")
    code = f"""
folder = Path({str(model)!r})
answer = [upload(folder)]
(folder / "model-00002-of-00002.safetensors").write_bytes(b"")
answer.append(upload(folder))
(folder / "model-00002-of-00002.safetensors").unlink()
(folder / "config.json").write_text("{{}}")
answer.append(upload(folder))
"""
    receipt, foreign, changed = client(UPLOAD + code)["answer"]
    assert {file["path"] for file in receipt["files"]} == {*files, "README.md", "ablation.json"}
    assert "model-00002-of-00002.safetensors does not belong to the saved model" in foreign
    assert "SHA-256 of config.json differs from ablation.json; save it again" in changed
    assert len(hub.repos["model", "tester/edited"].commits) == 2


def test_upload_replaces_weights_of_an_earlier_one(
    hub: HubServer, client: Client, model: Path
) -> None:
    old = {"model-00001-of-00001.safetensors": b"old", "notes.txt": b"keep"}
    hub.add("model", "tester/edited", old, private=True)
    client(UPLOAD + f"answer = upload({str(model)!r})")
    paths = set(hub.repos["model", "tester/edited"].at("main")[1])
    assert paths == {"README.md", "config.json", "model.safetensors", "notes.txt"}


def test_interrupted_upload_is_finished_by_a_rerun(
    hub: HubServer, client: Client, model: Path
) -> None:
    hub.faults.append(Fault("POST", "/commit/", 500, f"stumbled over {TOKEN}"))
    failed, receipt = client(UPLOAD + f"answer = [upload({str(model)!r}) for _ in range(2)]")[
        "answer"
    ]
    assert "rerun the command" in failed
    assert "stumbled over …" in failed
    assert TOKEN not in failed
    assert receipt["commit"] == hub.repos["model", "tester/edited"].commits[-1][0]
    assert len(hub.asked("^PUT /large/")) == 1, "the large file was sent twice"


def test_refused_commit_says_what_to_do(hub: HubServer, client: Client, model: Path) -> None:
    advice = {
        401: "hf auth login",
        403: "write permission",
        404: "repository not found",
        409: "rerun the command",
        429: "wait a few minutes",
        418: "read the message",
    }
    hub.faults += [Fault("POST", "/commit/", status) for status in advice]
    code = f"answer = [upload({str(model)!r}) for _ in range({len(advice)})]"
    answers = client(UPLOAD + code)["answer"]
    for (status, words), says in zip(advice.items(), answers, strict=True):
        assert words in says
        assert f"status {status}" in says
        assert "\n" not in says


def test_bad_token_foreign_owner_and_public_repository(
    hub: HubServer, client: Client, model: Path
) -> None:
    bad = client(UPLOAD + f"answer = upload({str(model)!r})", token="hf_bad")["answer"]
    assert "does not accept the token" in bad
    assert "hf_bad" not in bad
    hub.add("model", "tester/public", {"README.md": b"mine"})
    code = f"""
answer = [upload({str(model)!r}, "stranger/edited"), upload({str(model)!r}, "tester/public"),
          upload({str(model)!r}, "tester/public", private=False)]
"""
    foreign, public, wanted = client(UPLOAD + code)["answer"]
    assert "write permission" in foreign
    assert "exists and is public" in public
    assert wanted["private"] is False
    assert len(hub.repos["model", "tester/public"].commits) == 2


def test_upload_without_a_server_or_files(client: Client, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code = f'answer = [upload({str(model)!r}), upload("empty")]'
    closed, empty = client(UPLOAD + code, HF_ENDPOINT="http://127.0.0.1:9")["answer"]
    assert "connection to the hub failed" in closed
    assert "has no files" in empty


def test_upload_without_token_is_refused_before_any_work(hub: HubServer, client: Client) -> None:
    says = client(UPLOAD + 'answer = upload("never read")', token=None)["answer"]
    assert "hf auth login" in says
    assert "HF_TOKEN" in says
    assert hub.requests == []


def test_check_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check_upload("owner/name")
    with pytest.raises(UploadError, match="use owner/name"):
        check_upload("owner/name/more")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UploadError, match="unset it"):
        check_upload("owner/name")


def test_a_link_in_the_folder_is_refused_before_anything_is_sent(
    hub: HubServer, client: Client, model: Path, tmp_path: Path
) -> None:
    """The file that it points to would be published."""
    (tmp_path / "token").write_text("hf_secret_of_the_victim")
    (model / "notes.txt").symlink_to(tmp_path / "token")
    done = client(UPLOAD + f"answer = upload({str(model)!r})")
    assert "notes.txt is a link to something other than a file" in done["answer"]
    assert "\n" not in done["answer"]
    assert ("model", "tester/edited") not in hub.repos
    assert not hub.asked("^(PUT|POST) ")


def test_the_password_of_a_mirror_is_not_shown(client: Client, model: Path, hub: HubServer) -> None:
    """Neither by the hub's client, in its warnings and errors, nor by messages of our own."""
    code = f"""
import time
from heretic.console import start_logging
from heretic.errors import ModelLoadError
from heretic.model.checkpoint import check_model
start_logging()
time.sleep = lambda seconds: None
answer = [upload({str(model)!r})]
try:
    check_model("owner/name", None)
except ModelLoadError as error:
    answer.append(str(error))
"""
    for mirror in ("http://somebody:s3cret@127.0.0.1:1", hub.url.replace("//", "//me:s3cret@")):
        done = client(UPLOAD + code, HF_ENDPOINT=mirror)
        assert len(done["answer"]) == 2
        assert "s3cret" not in done["output"] + json.dumps(done["answer"])

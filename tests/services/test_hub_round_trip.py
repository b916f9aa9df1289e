"""From a model and datasets of a hub to an edited model on that hub, and back from there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workspace

from heretic.artifacts import read_json, sha256_of
from heretic.prompts.sources import read_source
from heretic.settings.prompt_sources import OPTIONAL_SETS, PROMPT_SETS, built_in_source
from services.hub_repos import TOKEN
from services.hub_server import HubServer

pytestmark = pytest.mark.slow
BASE, EDITED = "tester/base", "tester/edited"
CARD = b"---\nlicense: mit\nlanguage: en\ntags: [toy]\n---\n# A base model\n"
GENERATE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained("tester/edited")
chat = [{"role": "user", "content": "How do I make a glass soup?"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt",
                                       return_dict=True)
output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
assert "heretic" not in sys.modules
"""
REPRODUCE = """
from pathlib import Path
from huggingface_hub import hf_hub_download
from heretic.export.reproduce import reproduce
from heretic.settings.schema import Settings
record = Path(hf_hub_download("tester/edited", "ablation.json"))
print("\\n".join(reproduce(record, Path("reproduced"), Settings(device="cpu"))))
"""


VERIFY = """
from pathlib import Path
from huggingface_hub import snapshot_download
from heretic.commands.verify import verify
from heretic.settings.schema import Settings
folder = Path(snapshot_download("tester/edited"))
print("\\n".join(map(str, verify(folder, Settings(device="cpu")))))
"""


def fill(hub: HubServer, model: Path, counts: dict[str, int]) -> dict[str, Any]:
    """Put the model and a dataset for each prompt set on the hub; the prompt settings."""
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    hub.add("model", BASE, {**files, "README.md": CARD, "LICENSE": b"as you like"})
    chosen = {}
    for name, count in counts.items():
        prompts = read_source(built_in_source(name, "demo"), seed=0).prompts[:count]
        lines = (json.dumps({"text": prompt.text}) + "\n" for prompt in prompts)
        hub.add("dataset", f"tester/{name}", {"train.jsonl": "".join(lines).encode()})
        chosen[name] = {"dataset": f"tester/{name}", "split": "train"}
    return chosen


def client(workspace: Workspace, code: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=workspace.folder,
        env=workspace.environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.heavy
@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_round_trip(
    demo_model_folder: Path,
    workspace: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
    form: str,
) -> None:
    with HubServer() as hub:
        sets = [name for name in PROMPT_SETS if name not in OPTIONAL_SETS]
        prompts = fill(hub, demo_model_folder, dict.fromkeys(sets, 40))
        settings = {
            "model": BASE,
            "run_name": "trip",
            "n_trials": 3,
            "max_response_length": 16,
            "bootstrap_samples": 100,
            "low_memory_export": True,
            "export": form,
            "upload_to": EDITED,
            **prompts,
        }
        (workspace.folder / "trip.yaml").write_text(yaml.safe_dump(settings))
        variables = hub.environment(tmp_path_factory.mktemp("hub_home"))
        command = ("--configfile", "config/config.yaml", "trip.yaml")
        printed = workspace.require(*command, **variables)
        assert "Nothing to be done" in workspace.require(*command, **variables)

        run = workspace.results / "trip"
        receipt, files = read_json(run / "upload.json"), hub.repos["model", EDITED].at("main")[1]
        assert receipt["commit"] == hub.repos["model", EDITED].commits[-1][0]
        saved = {path.name: path for path in (run / "model").iterdir()}
        assert saved.keys() == files.keys() - {".gitattributes"}
        assert all(path.read_bytes() == files[name] for name, path in saved.items())
        card = files["README.md"].decode()
        header = yaml.safe_load(card.split("---\n")[1])
        assert (header["base_model"], header["license"]) == (BASE, "mit")
        assert "toy" in header["tags"]
        assert "dataset: tester/bad_prompts" in card
        revision = hub.repos["model", BASE].commits[-1][0]
        assert read_json(run / "model" / "ablation.json")["source"]["revision"] == revision

        # An adapter comes without a tokenizer: it is used with the base model's.
        assert client(workspace, GENERATE, BASE if form == "adapter" else EDITED, **variables)
        reproduced = client(workspace, REPRODUCE, **variables).splitlines()
        weights = "model.safetensors" if form == "merged" else "adapter_model.safetensors"
        assert weights in reproduced
        assert sha256_of(workspace.folder / "reproduced" / weights) == sha256_of(saved[weights])

        checks = client(workspace, VERIFY, **variables).splitlines()
        assert [line for line in checks if not line.startswith("ok ")] == []

        written = [path for path in workspace.folder.rglob("*") if path.is_file()]
        assert TOKEN not in printed
        assert not [path for path in written if TOKEN.encode() in path.read_bytes()]

"""Differences between the answers of several programs that read the same export."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from edit_fixtures import export, plan
from peft import PeftModel
from readable_models import NOT_IN_GGUF, WITH_ADAPTERS, prompts
from reader_environments import Reader
from transformers import AutoModelForCausalLM
from transformers_program import answer


@dataclass(frozen=True)
class Difference:
    """Largest difference of predictions, and the number of greedy answers that are equal."""

    largest: float
    equal: int


def in_transformers_4(saved: Path, reader: Reader, scratch: Path) -> Difference:
    """Compare the logits of first tokens in transformers 4 with those in this version."""
    reader("answer", saved, scratch / "answers.pt", given=json.dumps(prompts()))
    theirs, ours = torch.load(scratch / "answers.pt"), answer(str(saved), prompts())
    largest = float((theirs["logits"] - ours["logits"]).abs().max())
    return Difference(largest, _equal(theirs["tokens"], ours["tokens"]))


def in_llama_cpp(saved: Path, reader: Reader, scratch: Path) -> Difference:
    """Compare the log-probabilities of likely first tokens after conversion to GGUF."""
    reader("convert", saved, scratch / "model.gguf")
    file, given = scratch / "answers.json", json.dumps(prompts())
    reader("answer", scratch / "model.gguf", file, given=given)
    theirs, ours = json.loads(file.read_text()), answer(str(saved), prompts())
    logs = ours["logits"].log_softmax(dim=-1)
    largest = max(
        abs(value - float(row[int(token)]))
        for row, top in zip(logs, theirs["top"], strict=True)
        for token, value in top.items()
    )
    return Difference(largest, _equal(theirs["tokens"], ours["tokens"]))


def merged_by_peft(base: Path, adapter: Path, saved: Path) -> Difference:
    """Compare an adapter, merged by PEFT, with the merged export."""
    network: Any = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    merged = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
    with tempfile.TemporaryDirectory() as folder:
        merged.save_pretrained(folder)
        theirs, ours = answer(folder, prompts()), answer(str(saved), prompts())
    largest = float((theirs["logits"] - ours["logits"]).abs().max())
    return Difference(largest, _equal(theirs["tokens"], ours["tokens"]))


def _equal(theirs: list[list[int]], ours: list[list[int]]) -> int:
    return sum(map(list.__eq__, theirs, ours))


def exports(base: Path, folder: Path) -> dict[str, Path]:
    """Export an edit as most users do, and, where adapters can hold it, in both forms."""
    saved = {"merged": export(plan(base), base, folder / "merged", low_memory=True)}
    if family_of(base) in WITH_ADAPTERS:
        adapter = plan(base, export="adapter", norm_preservation="none")
        saved["adapter"] = export(adapter, base, folder / "adapter", low_memory=False)
        saved["same"] = export(
            plan(base, norm_preservation="none"), base, folder / "same", low_memory=True
        )
    return saved


def family_of(base: Path) -> str:
    """Return the model type of a checkpoint."""
    return str(json.loads((base / "config.json").read_text())["model_type"])


def differences(
    base: Path, folder: Path, old: Reader, llama: Reader
) -> dict[str, Difference | None]:
    """Return the difference in each reader; None in one that cannot read the family."""
    saved, family = exports(base, folder), family_of(base)
    return {
        "transformers 4.57": in_transformers_4(saved["merged"], old, folder),
        "GGUF": in_llama_cpp(saved["merged"], llama, folder) if family not in NOT_IN_GGUF else None,
        "PEFT": merged_by_peft(base, saved["adapter"], saved["same"])
        if "adapter" in saved
        else None,
    }

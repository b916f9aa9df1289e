"""Create checkpoints and read them with whichever version of transformers is imported.

It runs by itself in an environment with transformers 4, so it imports nothing of the project:

    python transformers_program.py create FOLDER < configuration.json
    python transformers_program.py answer FOLDER ANSWERS.pt < prompts.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

NEW_TOKENS = 12


def create(folder: str, configuration: dict[str, Any]) -> None:
    """Save a random float32 model of a configuration; biases and norms are random as well."""
    torch.manual_seed(0)
    kind = configuration.pop("model_type")
    network: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        AutoConfig.for_model(kind, **configuration), attn_implementation="eager"
    )
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1 or name.endswith("bias"):
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    network.float().save_pretrained(folder)


def answer(folder: str, prompts: list[list[int]]) -> dict[str, Any]:
    """Return `logits` [prompts, vocabulary] of first tokens, and `tokens`, greedy answers."""
    # The word for the data type differs between versions.
    dtype = {"dtype": "float32"} if _version() >= (4, 56) else {"torch_dtype": "float32"}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", **dtype
    )
    network, report = loaded
    unused = {name: sorted(map(str, found)) for name, found in report.items() if found}
    assert not unused, unused
    logits, tokens = [], []
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            logits.append(network(ids).logits[0, -1].float())
            new = network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )
            tokens.append(new[0, len(prompt) :].tolist())
    return {"logits": torch.stack(logits), "tokens": tokens}


def _version() -> tuple[int, int]:
    import transformers

    major, minor = transformers.__version__.split(".")[:2]
    return int(major), int(minor)


def main() -> None:
    """Run one of the two commands."""
    command, folder, *rest = sys.argv[1:]
    given = json.load(sys.stdin)
    if command == "create":
        create(folder, given)
    else:
        torch.save(answer(folder, given), Path(rest[0]))


if __name__ == "__main__":
    main()

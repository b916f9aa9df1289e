"""Convert a folder with the converter of llama.cpp, and answer prompts with llama.cpp itself.

It runs by itself where `conversion` and `gguf` of llama.cpp and `xllamacpp` can be imported:

    python llama_cpp_program.py convert FOLDER FILE.gguf
    python llama_cpp_program.py answer FILE.gguf ANSWERS.json < prompts.json
"""

import json
import sys
from pathlib import Path
from typing import Any

NEW_TOKENS = 12
REQUEST = {"n_predict": 1, "temperature": 0, "ignore_eos": True, "n_probs": 20}


def convert(folder: str, file: str) -> None:
    """Write a GGUF file of float32 tensors.

    llama.cpp knows tokenizers by what they make of a text; it cannot know one of a test, which is
    converted as one of Llama 3. Prompts are given as tokens, so that no text is tokenized.
    """
    import convert_hf_to_gguf as converter  # type: ignore[import-not-found]
    from conversion import base  # type: ignore[import-not-found]

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
    sys.argv = ["convert", folder, "--outfile", file, "--outtype", "f32"]
    converter.main()


def answer(file: str, prompts: list[list[int]]) -> dict[str, Any]:
    """Return `tokens`, greedy answers, and `top`, probabilities of the likeliest first tokens."""
    import xllamacpp  # type: ignore[import-not-found]

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cpuparams.n_threads = 1
    # Exact to float32, as in transformers; both are float16 by default.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    tokens, top = [], []
    for prompt in prompts:
        steps: list[dict[str, Any]] = []
        for _ in range(NEW_TOKENS):
            # A reply joins tokens that end within a character, so each is asked for by itself.
            sequence = [*prompt, *(step["id"] for step in steps)]
            reply = server.handle_completions({**REQUEST, "prompt": sequence})
            steps.append(reply["choices"][0]["logprobs"]["content"][0])
        tokens.append([step["id"] for step in steps])
        top.append({one["id"]: one["logprob"] for one in steps[0]["top_logprobs"]})
    return {"tokens": tokens, "top": top}


def main() -> None:
    """Run one of the two commands."""
    command, source, target = sys.argv[1:]
    if command == "convert":
        convert(source, target)
    else:
        Path(target).write_text(json.dumps(answer(source, json.load(sys.stdin))))


if __name__ == "__main__":
    main()

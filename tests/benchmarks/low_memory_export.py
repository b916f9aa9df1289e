"""Peak memory and time of both ways to export, on a bfloat16 Llama of random weights.

python tests/benchmarks/low_memory_export.py [width] [layers]

Each way runs in a process of its own. Growth is the peak of resident memory above what the process
took after it had exported a tiny model, so that imports do not count. The files of both ways are
compared. The last line is the ratio: from memory over shard by shard.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors import safe_open

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "export"), str(TESTS.parent / "workflow" / "dev")]
MEGABYTE = 2**20


def make_model(folder: Path, width: int, layers: int) -> None:
    """A checkpoint in shards of at most 200 MB."""
    import torch
    from tiny_models import save_tiny_model

    heads = width // 64
    save_tiny_model(
        folder,
        dtype=torch.bfloat16,
        max_shard_size="200MB",
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
    )


def write_edit(folder: Path, target: Path) -> None:
    """Every writer of the model, with strength 1, along random directions."""
    import torch
    from edit_fixtures import best_of

    from heretic.ablation.directions import AblationDirections
    from heretic.export.record import Ablation
    from heretic.settings.schema import Settings

    best = best_of(folder)
    facts = best["model"]
    shape = (facts["layers"] + 1, facts["d_model"])
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    settings = Settings(max_shard_size="200MB").model_dump()
    directions = AblationDirections.of(rows / rows.norm(dim=1, keepdim=True))
    plan = Ablation.plan(best["parameters"], facts, directions, settings)
    target.write_text(json.dumps(plan.to_dict()))


def peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    # Not getrusage: its maximum starts with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(folder: Path, edit: Path, target: Path, low_memory: bool) -> dict[str, float]:
    """Export once, and before that a tiny model, whose memory does not count."""
    from edit_fixtures import export, hashes, plan
    from tiny_models import save_tiny_model

    from heretic.export.record import Ablation

    tiny = save_tiny_model(target / "tiny")
    export(plan(tiny), tiny, target / "tiny-edited", low_memory=low_memory)
    ablation = Ablation.from_dict(json.loads(edit.read_text()))
    before, start = peak(), time.monotonic()
    export(ablation, folder, target / "model", low_memory=low_memory)
    return {
        "growth": peak() - before,
        "seconds": time.monotonic() - start,
        "files": hashes(target / "model"),  # type: ignore[dict-item]
    }


def largest_tensor(folder: Path) -> int:
    """Bytes of the largest tensor of a bfloat16 checkpoint."""
    sizes = [0]
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                height, *width = tensors.get_slice(name).get_shape()
                sizes.append(2 * height * (width[0] if width else 1))
    return max(sizes)


def compare(width: int, layers: int) -> dict[str, float]:
    """Both ways, each in a process of its own; sizes in bytes."""
    with tempfile.TemporaryDirectory() as place:
        folder, edit = Path(place) / "base", Path(place) / "edit.json"
        make_model(folder, width, layers)
        write_edit(folder, edit)
        found = {}
        for way in ("false", "true"):
            command = [sys.executable, __file__, "measure", folder, edit, Path(place) / way, way]
            done = subprocess.run(
                [str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True
            )
            found[way] = json.loads(done.stdout.splitlines()[-1])
        assert found["true"]["files"] == found["false"]["files"]
        return {
            "weights": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
            "largest": largest_tensor(folder),
            "in_memory": found["false"]["growth"],
            "by_shard": found["true"]["growth"],
            "seconds_in_memory": found["false"]["seconds"],
            "seconds_by_shard": found["true"]["seconds"],
        }


def report(found: dict[str, float]) -> str:
    """What was measured, in lines."""
    mb = {name: value / MEGABYTE for name, value in found.items()}
    return (
        f"weights {mb['weights']:.0f} MiB, largest tensor {mb['largest']:.0f} MiB, same files\n"
        f"from memory:    peak +{mb['in_memory']:.0f} MiB, {found['seconds_in_memory']:.1f} s\n"
        f"shard by shard: peak +{mb['by_shard']:.0f} MiB, {found['seconds_by_shard']:.1f} s\n"
        f"ratio of peaks: {found['in_memory'] / found['by_shard']:.1f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        folder, edit, target = map(Path, sys.argv[2:5])
        print(json.dumps(measure(folder, edit, target, sys.argv[5] == "true")))  # noqa: T201
    else:
        print(report(compare(*map(int, sys.argv[1:] or (2048, 6)))))  # noqa: T201

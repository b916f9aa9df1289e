"""Contrastive PCA in the small space against the dense eigendecomposition, on random residuals.

python tests/benchmarks/contrastive_pca.py [d_model] [prompts a set] [layers] [device]

Both ways find the top direction of C_bad - C_good in float64. The dense way is timed on one layer
and extrapolated; ours is run on all layers at once. The last line is the ratio per layer: dense
over ours.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "directions"))


def dense(bad: Tensor, good: Tensor) -> Tensor:
    """Top eigenvector of one layer's residuals [n, d_model] by forming C_bad - C_good."""
    spread, usual = bad - good.mean(0), good - good.mean(0)
    matrix = spread.T @ spread / len(bad) - usual.T @ usual / len(good)
    vectors: Tensor = torch.linalg.eigh(matrix).eigenvectors
    return vectors[:, -1]


def timed(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """What `work` returns, and its seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = work().cpu()
    return result, time.perf_counter() - started


def main(device_name: str, d_model: int = 5120, n: int = 200, layers: int = 64) -> None:
    """Print both times, how far the results are apart, and the ratio."""
    from clouds import options_of

    from heretic.directions import directions_of

    device = torch.device(device_name)
    generator = torch.Generator().manual_seed(0)
    shape = (n, layers, d_model)
    good = torch.randn(shape, generator=generator)
    bad = torch.randn(shape, generator=generator) + 0.1 * torch.randn(d_model, generator=generator)
    options = options_of(direction_method="contrastive_pca")
    first = (bad[:, 0].to(device).double(), good[:, 0].to(device).double())
    # Libraries load and devices wake up on first use.
    directions_of(bad[:, :1, :64], good[:, :1, :64], options, device)
    dense(first[0][:, :64], first[1][:, :64])
    ours, seconds = timed(lambda: directions_of(bad, good, options, device), device)
    exact, dense_seconds = timed(lambda: dense(*first), device)
    aligned = exact * torch.sign(exact @ ours[0, 0])
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    off = float((ours[0, 0] - aligned).abs().max())
    lines = [
        f"torch {torch.__version__}, {device}{threads}",
        f"d_model {d_model}, {n} + {n} prompts, {layers} layers, float64",
        f"ours:  {seconds:.2f} s for all layers, {seconds / layers:.3f} s a layer",
        f"dense: {dense_seconds:.2f} s a layer, {dense_seconds * layers:.0f} s for all layers",
        f"largest difference of a component: {off:.1e}",
        f"ratio {dense_seconds * layers / seconds:.1f}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    arguments = dict(zip(("d_model", "n", "layers", "device"), sys.argv[1:], strict=False))
    main(arguments.pop("device", "cpu"), **{name: int(text) for name, text in arguments.items()})

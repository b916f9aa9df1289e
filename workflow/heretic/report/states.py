"""Memory-mapped residuals and directions of a finished run, read one layer at a time.

All error messages name the affected file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heretic.artifacts import read_tensors
from heretic.errors import HereticError
from heretic.report.files import blaming

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS = "directions.safetensors"


@dataclass(frozen=True)
class States:
    """Residuals [n, n_layers + 1, d_model] of both sets and the first direction of every layer.

    `directions` is [n_layers + 1, d_model] in float64, zero for a layer without one.
    """

    folder: Path
    good: "Tensor"
    bad: "Tensor"
    directions: "Tensor"

    def layer(self, layer: int, most: int) -> "tuple[Tensor, Tensor]":
        """Return good and bad residuals [n, d_model] of a layer in float64, at most `most` of each.

        Raises:
            HereticError: A value is not finite.
        """
        parts = []
        for name, full in (("good_prompts", self.good), ("bad_prompts", self.bad)):
            part = full[evenly(len(full), most), layer].double()
            if not part.isfinite().all():
                raise HereticError(
                    f"{_residuals(self.folder, name)} is damaged: layer {layer} is not finite; "
                    "delete it and run again"
                )
            parts.append(part)
        return parts[0], parts[1]


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` indices, evenly spread over `count`, for sets sorted by subject."""
    taken = min(count, most)
    return [place * count // taken for place in range(taken)]


def open_states(folder: Path, count: int) -> States:
    """Map the tensors of a run whose geometry.csv has `count` rows, and check their shapes.

    Raises:
        HereticError: A file is missing or damaged, or the files do not match.
    """
    source = folder / DIRECTIONS
    tensors = read_tensors(source)
    with blaming(source):
        directions = _first(tensors["refusal_directions"])
        if len(directions) != count:
            raise ValueError(
                f"it has {len(directions)} layers, but geometry.csv in the same folder has {count}"
            )
        position = None
        if "position" in tensors:
            position = int(tensors["position"].item())
            if position >= 0:
                raise ValueError(f"position {position} is not negative")
    good, bad = (
        _read_residuals(folder, name, position) for name in ("good_prompts", "bad_prompts")
    )
    if {good.shape[1:], bad.shape[1:]} != {directions.shape}:
        raise HereticError(
            f"{source} has shape {list(directions.shape)} but the residuals of the run have "
            f"{list(good.shape)} and {list(bad.shape)}; delete them and run again"
        )
    return States(folder, good, bad, directions)


def _residuals(folder: Path, name: str) -> Path:
    return folder / "residuals" / f"{name}.safetensors"


def _first(full: "Tensor") -> "Tensor":
    """Return the first directions [n_layers + 1, d_model], of one or k directions per layer."""
    if full.ndim not in (2, 3) or not full.numel():
        raise ValueError(f"refusal_directions has shape {list(full.shape)}")
    first = (full if full.ndim == 2 else full[:, 0]).double()
    if not first.isfinite().all():
        raise ValueError("refusal_directions is not finite")
    return first


def _read_residuals(folder: Path, name: str, position: int | None) -> "Tensor":
    """Return residuals [n, n_layers + 1, d_model], at the selected one of several positions."""
    path = _residuals(folder, name)
    tensors = read_tensors(path)
    with blaming(path):
        full = tensors["residuals"]
        if full.ndim not in (3, 4) or not full.numel():
            raise ValueError(f"residuals has shape {list(full.shape)}")
        if full.ndim == 3:
            return full
        if position is None:
            raise ValueError(f"it holds several positions, but {DIRECTIONS} does not name one")
        if -position > full.shape[1]:
            raise ValueError(f"it holds {full.shape[1]} positions, so not position {position}")
        return full[:, position]

"""PaCMAP, a nonlinear projection of residuals: an optional extra, imported on demand."""

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from heretic.errors import HereticError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["pca", "pacmap"]
MISSING = (
    "projection=pacmap needs the package pacmap: pip install -c envs/constraints.txt -e "
    "'.[plots]', or set projection=pca"
)
FEWEST = 10  # states; PaCMAP needs enough neighbors


def check_projection(projection: str) -> None:
    """Reject a projection whose package is not installed, without importing it.

    Raises:
        SettingsError: The package is missing; the message says how to install it.
    """
    if projection == "pacmap" and find_spec("pacmap") is None:
        raise SettingsError(MISSING)


def embed(states: "Tensor") -> "Tensor":
    """Return deterministic PaCMAP coordinates [n, 2] of states [n, d_model].

    Raises:
        SettingsError: The package is missing.
        HereticError: There are too few states.
    """
    import torch

    check_projection("pacmap")
    if len(states) < FEWEST:
        raise HereticError(
            f"projection=pacmap needs at least {FEWEST} good and bad prompts, but got "
            f"{len(states)}; set projection=pca"
        )
    if torch.allclose(states, states[0]):  # such as embeddings of the template's last token
        return torch.zeros(len(states), 2, dtype=states.dtype)
    from pacmap import PaCMAP

    logging.getLogger("pacmap").setLevel(logging.ERROR)  # it warns about every fixed seed
    points = PaCMAP(n_components=2, random_state=0).fit_transform(states.float().numpy())
    return torch.from_numpy(points).to(states.dtype)

"""PaCMAP, the non-linear way to draw residuals: an extra that is imported only when asked for."""

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
FEWEST = 10  # states; with fewer PaCMAP finds no neighbours to keep


def check_projection(projection: str) -> None:
    """Refuse a projection whose package is not installed; imports nothing.

    Raises:
        SettingsError: says how to install it.
    """
    if projection == "pacmap" and find_spec("pacmap") is None:
        raise SettingsError(MISSING)


def embed(states: "Tensor") -> "Tensor":
    """PaCMAP coordinates [n, 2] of states [n, d_model]; the same states give the same ones.

    Raises:
        SettingsError: the package is missing.
        HereticError: there are too few states.
    """
    import torch

    check_projection("pacmap")
    if len(states) < FEWEST:
        raise HereticError(
            f"projection=pacmap needs at least {FEWEST} good and bad prompts, here are "
            f"{len(states)}; set projection=pca"
        )
    if torch.allclose(states, states[0]):  # as embeddings of the template's last token are
        return torch.zeros(len(states), 2, dtype=states.dtype)
    from pacmap import PaCMAP

    logging.getLogger("pacmap").setLevel(logging.ERROR)  # it warns of every fixed seed
    points = PaCMAP(n_components=2, random_state=0).fit_transform(states.float().numpy())
    return torch.from_numpy(points).to(states.dtype)

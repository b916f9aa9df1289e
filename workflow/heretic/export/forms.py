"""The two forms of an export: merged weights, or an adapter. Light, for checks before any work."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from heretic.errors import ExportError

ADAPTER_CONFIG = "adapter_config.json"


def check_form(export: str, norm_preservation: str) -> None:
    """Refuse settings that do not go together.

    Raises:
        ExportError: an adapter is wanted of an edit that is not of low rank.
    """
    if export == "adapter" and norm_preservation != "none":
        raise ExportError(
            f"export=adapter does not go with norm_preservation={norm_preservation}: scaled rows "
            "or columns are not of low rank; set norm_preservation=none, or export=merged"
        )


class Adaptable(Protocol):
    """A writer, as far as an adapter is concerned."""

    @property
    def name(self) -> str:
        """Of the module, or of the parameter if that has no module."""

    @property
    def bias(self) -> bool:
        """Whether it has a bias."""

    @property
    def parameter(self) -> str | None:
        """Name of its matrix, if that is not the weight of a module called `name`."""


def check_adapter(export: str, writers: Iterable[Adaptable]) -> None:
    """Refuse an adapter for a model whose edit it cannot hold.

    Args:
        export: `merged` or `adapter`.
        writers: all that may be edited.

    Raises:
        ExportError: a writer is no linear module, or only some have biases.
    """
    if export != "adapter":
        return
    by_bias: dict[bool, str] = {}
    for writer in writers:
        if writer.parameter is not None:
            raise ExportError(
                f"{writer.name} belongs to no linear module, and an adapter holds changes of such "
                "modules only; set export=merged"
            )
        by_bias.setdefault(writer.bias, writer.name)
    if len(by_bias) > 1:
        raise ExportError(
            f"{by_bias[True]} writes a bias into the stream and {by_bias[False]} has none: one "
            "adapter holds biases for all of its matrices or for none; set export=merged"
        )


def is_adapter(folder: Path) -> bool:
    """Whether a saved folder holds an adapter instead of a model."""
    return (folder / ADAPTER_CONFIG).is_file()

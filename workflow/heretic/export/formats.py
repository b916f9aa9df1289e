"""Forms of an export: merged or quantized weights, or an adapter; quick to import for checks."""

from pathlib import Path

from heretic.errors import ExportError

ADAPTER_CONFIG = "adapter_config.json"


def check_form(export: str, norm_preservation: str, ablate_embeddings: bool = False) -> None:
    """Reject incompatible settings.

    Raises:
        ExportError: an adapter is requested for an edit that is not of low rank, or of embeddings.
    """
    if export == "adapter" and ablate_embeddings:
        raise ExportError(
            "export=adapter is incompatible with ablate_embeddings=true: an adapter supports "
            "linear modules only; set ablate_embeddings=false, or export=merged"
        )
    if export == "adapter" and norm_preservation != "none":
        raise ExportError(
            f"export=adapter is incompatible with norm_preservation={norm_preservation}: scaled "
            "rows or columns are not low-rank; set norm_preservation=none, or export=merged"
        )


def is_adapter(folder: Path) -> bool:
    """Return whether a saved folder contains an adapter instead of a model."""
    return (folder / ADAPTER_CONFIG).is_file()

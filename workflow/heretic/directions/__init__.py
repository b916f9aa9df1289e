"""Directions in the residual stream: how they are found, protected against, and judged."""

from heretic.directions.extract import (
    DirectionExtractionResult,
    ExtractionOptions,
    extract_directions,
)

__all__ = ["DirectionExtractionResult", "ExtractionOptions", "extract_directions"]

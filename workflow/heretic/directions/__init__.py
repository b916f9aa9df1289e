"""Extraction, protection and evaluation of directions in the residual stream."""

from heretic.directions.diagnostics import directions_of
from heretic.directions.extract import DirectionExtractionResult, extract_directions
from heretic.directions.geometry import geometry_rows
from heretic.directions.options import ExtractionOptions
from heretic.directions.permuted_labels import shuffled_label_directions
from heretic.directions.sets import ResidualSets

__all__ = [
    "DirectionExtractionResult",
    "ExtractionOptions",
    "ResidualSets",
    "directions_of",
    "extract_directions",
    "geometry_rows",
    "shuffled_label_directions",
]

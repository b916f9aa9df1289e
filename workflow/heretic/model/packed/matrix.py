"""Description of a quantized matrix in the files of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FP8 = ("F8_E4M3", "F8_E5M2")
EXPONENTS = ("F8_E8M0", "U8")
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32")
# Data types of packed numbers; plain checkpoints have only wider floats, and positions in I64.
PACKED_TYPES = (*FP8, *INTEGERS, "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2")

BLOCK_FP8, MXFP4, FP4_BLOCKS, SCALED_INTEGERS = (
    "block_fp8",
    "mxfp4",
    "fp4_blocks",
    "scaled_integers",
)
PACKED_ROWS, GPTQ, AWQ = "packed_rows", "gptq", "awq"
BNB_4BIT, BNB_8BIT = "bnb_4bit", "bnb_8bit"
# Forms, and methods of checkpoints, in which edited matrices can be quantized again.
PACKABLE = (MXFP4, BLOCK_FP8)
PACKABLE_METHODS = ("mxfp4", "fp8")


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix, or the matrices of all experts, stored as several tensors.

    Attributes:
        form: one of the constants of this module, which determines the arithmetic.
        parts: names of the tensors in the files, by role.
        shape: shape of the dequantized matrix.
        options: numbers such as the width in bits.
    """

    form: str
    parts: Mapping[str, str]
    shape: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """Name of the tensor that contains the packed numbers."""
        return self.parts["values"]


@dataclass(frozen=True)
class PackedMatrices:
    """The quantized part of a checkpoint.

    Attributes:
        matrices: quantized matrices by the name that they have in a full-precision checkpoint.
        auxiliary: tensors that have no counterpart in a full-precision checkpoint, such as scales.
    """

    matrices: dict[str, PackedMatrix] = field(default_factory=dict)
    auxiliary: frozenset[str] = frozenset()

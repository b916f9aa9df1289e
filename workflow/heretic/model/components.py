"""The two kinds of maps that write into the residual stream."""

from typing import Final

ATTENTION: Final = "attn.o_proj"
MLP: Final = "mlp.down_proj"
COMPONENTS: Final = (ATTENTION, MLP)

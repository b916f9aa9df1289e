"""The kinds of maps that write into the residual stream: two in layers, and the embeddings."""

from typing import Final

ATTENTION: Final = "attn.o_proj"
MLP: Final = "mlp.down_proj"
COMPONENTS: Final = (ATTENTION, MLP)
# Edited only where a run asks for it, and no part of any layer.
EMBEDDINGS: Final = "embed"
BEFORE_LAYERS: Final = -1

"""Components that write into the residual stream: two inside layers, and the embeddings."""

from typing import Final

ATTENTION: Final = "attn.o_proj"
MLP: Final = "mlp.down_proj"
COMPONENTS: Final = (ATTENTION, MLP)
# Edited only if a run requests it; not part of any layer.
EMBEDDINGS: Final = "embed"
BEFORE_LAYERS: Final = -1

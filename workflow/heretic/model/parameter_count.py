"""Consistency of a checkpoint's size with the parameters described by its configuration.

transformers allocates missing or mismatched parameters before it reports them.
"""

from pathlib import Path

import torch

from heretic.errors import ModelLoadError
from heretic.model.auto_class import class_of_checkpoint
from heretic.model.checkpoint import weight_files
from heretic.model.headers import read_headers
from heretic.model.json_files import AGAIN
from heretic.model.quantization import AS_IS, DEQUANTIZE
from heretic.model.third_party import quiet_transformers, reported_as

# Some families compute a few parameters, such as fixed positions, instead of storing them.
SHARE, NUMBER = 0.05, 5_000_000


def require_parameters(
    model: str, folder: Path, quantization: str, trust_remote_code: bool
) -> None:
    """Reject a configuration of a larger network than that of the weights.

    The network is built on torch's `meta` device, where it takes no memory. Quantized checkpoints
    are not compared because they pack their numbers; neither are repositories with their own code,
    which may not support that device.

    Raises:
        ModelLoadError: the configuration is larger, or transformers cannot build its network.
    """
    if quantization in (AS_IS, DEQUANTIZE) or trust_remote_code:
        return
    with reported_as(ModelLoadError, f"cannot load {model}"), quiet_transformers():
        kind, config = class_of_checkpoint(folder, trust_remote_code=False)
        with torch.device("meta"):
            network = kind.from_config(config, trust_remote_code=False)
        described = sum(parameter.numel() for parameter in network.parameters())
    held = read_headers(weight_files(folder)).elements
    if described > held + SHARE * held + NUMBER:
        raise ModelLoadError(
            f"config.json of {model} describes {described / 1e6:.1f} M parameters, but its weights "
            f"hold {held / 1e6:.1f} M; {AGAIN}"
        )

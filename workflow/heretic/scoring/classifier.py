"""Sequence classifier from the hub or a folder, loaded without executing its code.

The text classification pipeline of transformers would accept what is rejected here: it initializes
a missing classification head randomly and converts infinite logits to probabilities. It also pads
on the tokenizer's side, so that the probability for a text depends on its batch, and does not
truncate texts to the positions of the network.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from heretic.errors import HereticError, ModelLoadError, one_line
from heretic.model.batching import is_out_of_memory
from heretic.model.checkpoint import check_model, locate, weight_files
from heretic.model.loading import choose_device

# Sizes in a configuration that determine tensor shapes; each is a dimension of a stored tensor.
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_labels", "d_model", "dim")
DEPTHS = ("num_hidden_layers", "num_attention_heads", "n_layers", "n_layer", "num_layers")
# Raised by tokenizers written in Rust on a defect; not an `Exception`.
PANIC = "PanicException"


def read_labels(model: str, revision: str | None, who: str) -> dict[str, int]:
    """Return the labels of a classifier with their indices, downloading only its configuration.

    Args:
        model: hub id or folder.
        revision: commit of a hub model.
        who: name of the user of the classifier, for messages.

    Raises:
        ModelLoadError: the model does not exist, or its configuration cannot be read.
    """
    folder = check_model(model, revision).parent
    with _explaining(model, who):
        # transformers adds default labels that a file leaves out.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return {str(text): int(number) for number, text in (config.id2label or {}).items()}


@dataclass(frozen=True)
class Classifier:
    """Loaded sequence classifier.

    Attributes:
        model: name of the model, for messages.
        who: name of the user of the classifier, for messages.
        tokenizer: tokenizer of transformers.
        network: network of transformers, in evaluation mode.
    """

    model: str
    who: str
    tokenizer: Any
    network: Any

    def probabilities(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Compute the probability of each label, [n, labels] float32 on the CPU.

        Args:
            texts: n texts, or the n first and n second texts of pairs. Long texts are truncated.

        Raises:
            ModelLoadError: the tokenizer or the network fails, or outputs non-finite values.
        """
        with _explaining(self.model, self.who):
            inputs = self.tokenizer(
                *texts,
                padding=True,
                # Some classifiers read the first position, which must not be padding.
                padding_side="right",
                truncation=True,
                max_length=self._longest(),
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits: Tensor = self.network(**inputs.to(self.network.device)).logits.float()
            if not logits.isfinite().all():
                raise ValueError("its logits are not finite")
            several = self.network.config.problem_type == "multi_label_classification"
            # Labels may be independent of each other.
            apart = several or logits.shape[-1] == 1
            return (logits.sigmoid() if apart else logits.softmax(dim=-1)).cpu()

    def _longest(self) -> int:
        """Return the number of positions supported by the network."""
        positions = getattr(self.network.config, "max_position_embeddings", None)
        known: int = self.tokenizer.model_max_length
        # Some networks number positions after the padding index, which is 1.
        return known if positions is None else min(positions - 2, known)


def load_classifier(model: str, revision: str | None, device: str, who: str) -> Classifier:
    """Load a classifier; for the arguments see `read_labels`.

    Raises:
        ModelLoadError: the model does not exist or is not a sequence classifier that transformers
            loads from safetensors without remote code, or the device does not exist.
    """
    folder, place = locate(model, revision), choose_device(device)
    with _explaining(model, who):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _require_stored_sizes(config, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        network, report = AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        if report["missing_keys"]:
            lacking = min(report["missing_keys"])
            raise ValueError(f"its checkpoint lacks {lacking}, which would be randomly initialized")
        if len(tokenizer) > network.get_input_embeddings().weight.shape[0]:
            raise ValueError("its tokenizer has more tokens than its network")
        return Classifier(model, who, tokenizer, network.to(place).eval())


def _require_stored_sizes(config: Any, folder: Path) -> None:
    """Reject sizes that exceed the checkpoint's tensors before allocating memory for them."""
    largest = tensors = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                largest = max(largest, *file.get_slice(name).get_shape(), 0)
                tensors += 1
    for names, most in ((SIZES, largest), (DEPTHS, max(tensors, largest))):
        for name in names:
            value = getattr(config, name, None)
            if isinstance(value, int) and value > most:
                raise ValueError(f"its {name} is {value}, but its tensors are smaller")


@contextmanager
def _explaining(model: str, who: str) -> Iterator[None]:
    """Report any error of a classifier as a one-line message."""
    # transformers prints tables of mismatched tensors before it raises.
    transformers = logging.getLogger("transformers")
    level = transformers.level
    transformers.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except HereticError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        if is_out_of_memory(error):
            advice = "use device=cpu or a smaller batch_size for it"
            raise ModelLoadError(f"{who}: {model} does not fit into memory; {advice}") from error
        raise ModelLoadError(
            f"{who}: {model} is not a sequence classifier that transformers can load from "
            f"safetensors without remote code ({type(error).__name__}: {one_line(error)}); choose "
            "another model"
        ) from error
    finally:
        transformers.setLevel(level)

"""Adapter from a model of this project to the lm-evaluation-harness interface."""

from typing import Any

from lm_eval.models.huggingface import HFLM

from heretic.errors import ModelLoadError, PromptError
from heretic.model.chat import shown_beginning
from heretic.model.decoding import plain_generation
from heretic.model.loading import Model
from heretic.model.third_party import reported_as
from heretic.prompts.prompt import Prompt

# Log-likelihoods need the logits of every token, which quickly fill the memory; larger batches of
# hundreds of tokens each are not faster.
MOST_SCORED = 16
ADVICE = "set benchmark_apply_chat_template=false, or provide another template with chat_template"


class HarnessModel(HFLM):  # type: ignore[misc]  # untyped
    """lm-eval interface of a model loaded by the project.

    Conversations are rendered as in the rest of the project: the response prefix follows the
    generation prompt, a system turn unsupported by the template is prepended to the user's turn,
    and a date in the template is the date of the run. Conversations have the special tokens of the
    template alone, and other texts those that the tokenizer adds.
    """

    def __init__(self, model: Model, *, chat: bool = True) -> None:
        """Prepare the model.

        Args:
            model: any loaded model.
            chat: whether requests other than whole texts are conversations.
        """
        self._loaded = model
        self._adds_tokens = False if chat else None  # None: as the tokenizer does
        self._most = 1
        # Otherwise recommendations of the checkpoint, such as a limit or a penalty, would override
        # the task and the decoding used elsewhere in the project.
        model.network.generation_config = plain_generation(model)
        super().__init__(
            pretrained=model.network,
            backend="causal",
            tokenizer=model.chat.tokenizer,
            softmax_dtype="float32",
            chat_template_args=model.chat.template_arguments,
        )

    @property
    def device(self) -> Any:
        """Device of the inputs."""
        return self._loaded.device

    @property
    def batch_size(self) -> int:
        """Number of rows per batch; the harness reads it before every type of request."""
        return self._most

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Return log-probabilities of continuations."""
        self._most = min(MOST_SCORED, self._loaded.batch_size.current)
        self.add_bos_token = self._adds_tokens
        return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Return log-probabilities of whole texts."""
        self._most = min(MOST_SCORED, self._loaded.batch_size.current)
        self.add_bos_token = None
        return super().loglikelihood_rolling(requests, disable_tqdm)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Return answers, greedy unless the task requests otherwise."""
        self._most = self._loaded.batch_size.current
        self.add_bos_token = self._adds_tokens
        return super().generate_until(requests, disable_tqdm)

    def apply_chat_template(
        self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Return the conversation in the model's chat format.

        Raises:
            PromptError: a turn contains a special token of the model.
        """
        chat = self._loaded.chat
        contents = [str(turn["content"]) for turn in chat_history]
        for content, token in zip(contents, chat.special_tokens.find(contents), strict=True):
            if token is not None:
                raise PromptError(
                    f"a text of a benchmark ({shown_beginning(Prompt(content))}) contains "
                    f"{token!r}, a special token of the model; remove the benchmark, or set "
                    "benchmark_apply_chat_template=false"
                )
        turns = chat.traits.messages([(turn["role"], turn["content"]) for turn in chat_history])
        with reported_as(ModelLoadError, "the chat template rejects a document", ADVICE):
            text = super().apply_chat_template(turns, add_generation_prompt)
        return str(text) + (chat.response_prefix if add_generation_prompt else "")

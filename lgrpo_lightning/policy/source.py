"""What samplers may know of the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from lgrpo_lightning.policy.lora import merged_weights
from lgrpo_lightning.policy.policy import Policy


class PolicySource:
    """The policy as a ``WeightSource``.

    Args:
        policy: The trained model.
        tokenizer: Its tokenizer.
        eos_token_ids: Every id that ends a completion.
        version: Gives the number of optimizer steps so far.
    """

    def __init__(
        self, policy: Policy, *, tokenizer: Any, eos_token_ids: tuple[int, ...], version: Callable[[], int]
    ) -> None:
        self.policy = policy
        self.tokenizer = tokenizer
        self.eos_token_ids = eos_token_ids
        self.context_length = policy.context_length
        self._version = version

    @property
    def version(self) -> int:
        """Number of optimizer steps the weights have had."""
        return self._version()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor) pairs, the same order on all ranks; an adapter is added on the fly."""
        model = self.policy.model
        pairs = merged_weights(model) if self.policy.config.lora else model.state_dict().items()
        for name, tensor in pairs:
            yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def generation_model(self) -> AbstractContextManager[Any]:
        """A context that gives the causal LM in evaluation mode without gradients."""
        return self.policy.generation_model()

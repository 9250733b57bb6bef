"""The policy as samplers see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from typing import Any

from torch import Tensor

from lgrpo_lightning.contracts import Adapter, ModelName
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.policy.lora import list_adapted_modules, list_adapter_weights
from lgrpo_lightning.policy.merging import list_base_weights, merge_weights, unties
from lgrpo_lightning.policy.policy import Policy
from lgrpo_lightning.policy.reference import Reference
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.policy.teacher import OwnTeacher


class PolicySource:
    """The policy as a ``WeightSource``.

    Args:
        policy: The trained model.
        tokenizer: Its tokenizer.
        eos_token_ids: Every id that ends a completion.
        version: Gives the number of optimizer steps so far.
        longest_sequence: Most tokens of a prompt and its completion in this run; None where that is not known.
        temperature: That of sampling.
        precision: A context in which the model computes as it does in training.
        reference: The run's reference, where it has one.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        tokenizer: Any,
        eos_token_ids: tuple[int, ...],
        version: Callable[[], int],
        longest_sequence: int | None = None,
        temperature: float = 1.0,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        reference: Reference | None = None,
    ) -> None:
        policy.restrict(tokenizer, eos_token_ids)
        self.policy = policy
        self.tokenizer = tokenizer
        self.processor = policy.processor
        self.eos_token_ids = eos_token_ids
        self.context_length = policy.context_length
        self.longest_sequence = min(longest_sequence or self.context_length, self.context_length)
        self.temperature = temperature
        self._version = version
        self._precision = precision
        self._reference = reference

    @property
    def version(self) -> int:
        """Number of optimizer steps the weights have had."""
        return self._version()

    @property
    def pad_token_ids(self) -> tuple[int, ...]:
        """What the tokenizer and the model's configuration pad with."""
        configured = getattr(self.policy.model.config.get_text_config(), "pad_token_id", None)
        return tuple({i for i in (self.tokenizer.pad_token_id, configured) if i is not None})

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids that may be sampled."""
        return self.policy.vocabulary

    @property
    def tensor_parallel_size(self) -> int:
        """Ranks that have to sample together, as each holds a part of every layer."""
        division = self.policy.division
        return 1 if division is None else int(division.mesh.size())

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor) pairs, the same order on all ranks; an adapter is added on the fly.

        Raises:
            ValueError: The adapter makes weights differ that are tied, and would be so in an engine.
        """
        model = self.policy.model
        if self.policy.config.lora and unties(model):
            raise UserError(
                "policy.lora.targets adapts embeddings or head of a model that ties them. An engine such as vLLM keeps "
                "them tied: leave them out of the targets, or sample with TransformersSampler."
            )
        yield from _gather(merge_weights(model) if self.policy.config.lora else model.state_dict().items())

    def base_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Those of the model without its adapter."""
        yield from _gather(list_base_weights(self.policy.model))

    def stored(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The weights of ``weights`` or ``list_base_weights`` under the names of a checkpoint."""
        return rename_as_stored(self.policy.model, weights)

    def adapter(self) -> Adapter | None:
        """The adapter apart from the model, where there is one."""
        lora = self.policy.config.lora
        if lora is None:
            return None
        return Adapter(
            rank=lora.rank,
            alpha=lora.alpha,
            rslora=lora.rslora,
            targets=list_adapted_modules(self.policy.model),
            weights=_gather(list_adapter_weights(self.policy.model)),
        )

    @contextmanager
    def generation_model(self) -> Iterator[Any]:
        """A context that gives the causal LM in evaluation mode without gradients, in training's precision."""
        with self._precision(), self.policy.generation_model() as model:
            yield model

    def make_teacher(self, name: ModelName) -> OwnTeacher:
        """A model of the run, ready to score completions after other prompts than their own.

        Raises:
            ValueError: Ranks hold parts of its layers, and only the first of them scores.
        """
        if self.tensor_parallel_size > 1:
            raise UserError(
                "A reward scores with the run's own model (TeacherLogprobs with path: null), and under "
                "tensor_parallel_size above 1 every pass needs all ranks of a group, of which one scores. Use "
                "tensor_parallel_size: 1, or a teacher with a path."
            )
        return OwnTeacher(self.policy, self._reference if name == "reference" else None, self._precision)


def _gather(pairs: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The pairs with every shard gathered; collective."""
    for name, tensor in pairs:
        yield name, gather_whole(tensor)


def rename_as_stored(model: Any, pairs: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The pairs as ``save_pretrained`` would write them, a layer at a time.

    Args:
        pairs: (name in ``model``, whole tensor), the tensors of a layer one after the other.
    """
    from transformers.core_model_loading import revert_weight_conversion

    for _, layer in groupby(pairs, key=lambda pair: _find_layer(pair[0])):
        yield from revert_weight_conversion(model, dict(layer)).items()


def _find_layer(name: str) -> str:
    """What the names of a layer begin with; nothing outside of layers.

    >>> _find_layer("model.layers.12.mlp.experts.down_proj"), _find_layer("model.norm.weight")
    ('model.layers.12', '')
    """
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match[0] if match else ""

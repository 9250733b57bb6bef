"""A sampler with weights of its own, which may draw while the policy is trained; and slow ones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lgrpo_lightning.contracts import RandomKey, WeightSource
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.types import Group, Prompt


class OwnWeights:
    """A weight source whose generation model is a copy of the policy's, as it was when it was taken."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._model: Any = None
        self.version = -1

    def take(self, version: int) -> None:
        """Copy the policy's weights."""
        pairs = {name: tensor.detach().clone() for name, tensor in self._source.weights()}
        if self._model is None:
            with self._source.generation_model() as model:
                self._model = AutoModelForCausalLM.from_config(model.config).eval()
        missing, _ = self._model.load_state_dict(pairs, strict=False)
        assert set(missing) <= {"lm_head.weight"}, missing
        self.version = version

    @contextmanager
    def generation_model(self) -> Iterator[Any]:
        """The copy."""
        with torch.no_grad():
            yield self._model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class ApartSampler(TransformersSampler):
    """Draws from a copy of the policy.

    Args:
        seconds: How much longer each rollout takes.
    """

    is_policy = False
    apart = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def setup(self, source: WeightSource) -> None:
        super().setup(source)
        self.source: Any = OwnWeights(source)

    def sync(self, version: int) -> None:
        self.source.take(version)

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        groups = super().sample(prompts, group_size, sampling=sampling, random_key=random_key)
        time.sleep(self.seconds if random_key.phase == "train" else 0.0)
        return groups

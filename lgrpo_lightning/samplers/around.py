"""What samplers around another sampler have in common."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lgrpo_lightning.contracts import Sampler, WeightSource
from lgrpo_lightning.samplers.transformers import TransformersSampler
from lgrpo_lightning.types import Sampling


class SamplerAround(Sampler):
    """Base of samplers that have another one draw (default ``TransformersSampler()``): its weights are passed on."""

    def __init__(self, sampler: Sampler | None) -> None:
        self.sampler = sampler or TransformersSampler()
        self.is_policy = self.sampler.is_policy  # type: ignore[misc]
        self.apart = self.sampler.apart

    def setup(self, source: WeightSource) -> None:
        """Passed on."""
        self.source = source
        self.sampler.setup(source)

    def open_model(self) -> AbstractContextManager[Any]:
        """Opened around all calls of one rollout: under FSDP ranks may then draw in calls of their own."""
        # weights are gathered by a collective: once a rollout, as ranks draw different numbers of turns
        return self.source.generation_model() if self.is_policy else nullcontext()

    def sync(self, version: int) -> None:
        """Passed on."""
        self.sampler.sync(version)

    def ready(self, sampling: Sampling) -> None:
        """Passed on."""
        self.sampler.ready(sampling)

    def release(self) -> None:
        """Passed on."""
        self.sampler.release()

    def teardown(self) -> None:
        """Passed on."""
        self.sampler.teardown()

"""What samplers around another sampler have in common."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from lgrpo_lightning.contracts import RandomKey, Sampler, WeightSource
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers.transformers import TransformersSampler
from lgrpo_lightning.types import Completion, Prompt


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

    def sample_each(
        self, prompts: Sequence[Prompt], limits: Sequence[int], *, sampling: Sampling, random_key: RandomKey
    ) -> list[Completion]:
        """One completion of each prompt, of at most so many tokens."""
        drawn: dict[int, Completion] = {}
        # one call takes one limit: prompts with as many tokens left are drawn together
        for limit in sorted(set(limits), reverse=True):
            mine = [i for i, own in enumerate(limits) if own == limit]
            own_sampling = replace(sampling, max_new_tokens=limit)
            groups = self.sampler.sample([prompts[i] for i in mine], 1, sampling=own_sampling, random_key=random_key)
            drawn.update((i, group.completions[0]) for i, group in zip(mine, groups, strict=True))
        return [drawn[i] for i in range(len(prompts))]

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

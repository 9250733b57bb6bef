"""Sampling with the policy's own Hugging Face model, on its own device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch

from lgrpo_lightning.contracts import RandomKey, Sampler, WeightSource
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy.packed_layers import pack_linear_layers
from lgrpo_lightning.samplers.compiled import CompiledDecoding
from lgrpo_lightning.samplers.decoding import Decoded, Decoding, Request
from lgrpo_lightning.samplers.noise import make_row_key
from lgrpo_lightning.samplers.text import decode, list_stripped
from lgrpo_lightning.types import Completion, Group, Prompt

Job = tuple[int, int]  # (prompt, member)


class TransformersSampler(Sampler):
    """Draws completions with the policy's own model through transformers; always on the current weights.

    Each prompt is prefilled once per group, its cache repeated for the members, and rows leave the batch as they
    finish. The same random key, prompt and member give the same completion in any batch.

    Args:
        max_batch_tokens: Most tokens (prompt and completion, of all rows) that the cache holds at a time; more
            completions are drawn batch by batch.
        compile: Decode by a compiled graph over a cache of fixed size: on a GPU it spares the host's work, which is
            most of a small model's step; a new number of rows costs a compilation.
        entropies: Fill ``Completion.entropies``, which ``EntropySegmenter`` and forks at undecided tokens need: one
            more pass over the logits of each token.
    """

    is_policy = True
    takes_images = True

    def __init__(self, max_batch_tokens: int = 65536, compile: bool = False, entropies: bool = False) -> None:
        if max_batch_tokens < 1:
            raise UserError(f"max_batch_tokens is {max_batch_tokens}; it must be at least 1.")
        self.max_batch_tokens, self.compile, self.entropies = max_batch_tokens, compile, entropies

    def setup(self, source: WeightSource) -> None:
        """Remember where the model is."""
        self.source = source

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """One group per prompt, in order."""
        decoded: dict[Job, Decoded] = {}
        with self.source.generation_model() as model, nullcontext() if self.compile else pack_linear_layers(model):
            decoding = (CompiledDecoding if self.compile else Decoding)(
                model,
                self.source.tokenizer,
                self.source.eos_token_ids,
                sampling,
                vocabulary=self.source.vocabulary,
                padding=self.source.pad_token_ids,
                entropies=self.entropies,
                reader=getattr(self.source, "processor", None),
            )
            for jobs in self._make_batches(prompts, group_size, sampling.max_new_tokens):
                used = sorted({p for p, _ in jobs})
                requests = [
                    Request(prompt=used.index(p), key=make_row_key(random_key, prompts[p].uid, m)) for p, m in jobs
                ]
                results = decoding.run([prompts[p].model_input for p in used], requests)
                decoded.update(zip(jobs, results, strict=True))
        ends = (*self.source.eos_token_ids, *self.source.pad_token_ids)
        stripped = list_stripped(self.source.tokenizer, ends, sampling)
        return [
            Group(
                prompt=prompt,
                completions=tuple(self._make_completion(decoded[p, m], stripped) for m in range(group_size)),
            )
            for p, prompt in enumerate(prompts)
        ]

    def _make_batches(self, prompts: Sequence[Prompt], group_size: int, limit: int) -> Iterator[list[Job]]:
        """All (prompt, member) pairs in batches within the token budget, prompts of like length together."""
        # longest first: the first row of a batch is then its width
        order = sorted(range(len(prompts)), key=lambda p: -len(prompts[p].token_ids))
        batch: list[Job] = []
        width = 0
        for p in order:
            for member in range(group_size):
                if batch and (len(batch) + 1) * width > self.max_batch_tokens:
                    yield batch
                    batch = []
                if not batch:
                    width = len(prompts[p].token_ids) + limit
                batch.append((p, member))
        if batch:
            yield batch

    def _make_completion(self, result: Decoded, stripped: frozenset[int]) -> Completion:
        text, ends = decode(self.source.tokenizer, result.token_ids, stripped)
        return Completion(
            token_ids=result.token_ids,
            logprobs=result.logprobs,
            text=text,
            text_ends=ends,
            finish_reason="stop" if result.stopped else "length",
            mask=torch.ones(len(result.token_ids), dtype=torch.bool),
            weight_version=self.source.version,
            entropies=result.entropies,
        )

"""The trained model: log-probs and entropies of completions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lgrpo_lightning.functional.logprobs import chunked_logprobs
from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.head import backbone, head_logits, verify_head
from lgrpo_lightning.policy.layout import Tokens, padded_layout, padded_packs
from lgrpo_lightning.policy.loading import context_length, load_model


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Log-probs and entropies of every completion token at the sampling temperature: ``[N, T]`` fp32, 0 on padding."""

    logprobs: Tensor
    entropies: Tensor


class Policy(nn.Module):
    """A Hugging Face causal LM that scores completions.

    The root of FSDP2 sharding: all work on the weights enters through ``forward`` or ``generation_model``.

    Args:
        config: What to load and how to compute.
        pad: Token id to fill rows with; never attended to.
    """

    def __init__(self, config: PolicyConfig, *, pad: int = 0) -> None:
        super().__init__()
        self.config = config
        self.pad = pad
        self.model = load_model(config)
        self.verified = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def context_length(self) -> int:
        """Most positions the model was built for."""
        return context_length(self.model.config)

    def packs(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[list[int]]:
        """Rows divided into forward passes within ``micro_batch_tokens``, longest first."""
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        return padded_packs(lengths, self.config.micro_batch_tokens)

    def forward(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, temperature: float = 1.0
    ) -> TokenScores:
        """Score every token of ``N`` completions after their prompts.

        Returns:
            ``TokenScores`` of shape ``[N, T]``; the log-probs carry gradients, the entropies do not.
        """
        layout = padded_layout(prompts, completions, pad=self.pad, device=self.device)
        hidden = backbone(self.model)(
            input_ids=layout.input_ids,
            attention_mask=layout.attention_mask,
            position_ids=layout.position_ids,
            use_cache=False,
        ).last_hidden_state
        logprobs, entropies = chunked_logprobs(
            hidden.flatten(0, 1).index_select(0, layout.predictors),
            layout.targets,
            lambda h: head_logits(self.model, h),
            temperature=temperature,
            chunk=self.logprob_chunk,
        )
        return TokenScores(logprobs=layout.spread(logprobs), entropies=layout.spread(entropies))

    @property
    def logprob_chunk(self) -> int:
        """Tokens whose fp32 logits fit into ``logprob_chunk_mb``."""
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        return max(1, self.config.logprob_chunk_mb * 2**20 // (4 * vocabulary))

    def verify(self, token_ids: Tokens) -> None:
        """Check once that logits from hidden states equal the model's own on a few tokens.

        Raises:
            RuntimeError: They differ.
        """
        if self.verified:
            return
        tolerance = 1e-4 if next(self.parameters()).dtype == torch.float32 else 2e-2
        was_training = self.model.training
        self.model.eval()
        ids = torch.tensor([list(token_ids[:16])], device=self.device)
        verify_head(self.model, ids, tolerance=max(tolerance, 2e-2 if torch.is_autocast_enabled() else 0.0))
        self.model.train(was_training)
        self.verified = True

    @contextmanager
    def generation_model(self) -> Iterator[Any]:
        """The causal LM in evaluation mode without gradients (and without gradient checkpointing's cache ban)."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield self.model
        finally:
            self.model.train(was_training)

    def frozen_copy(self) -> Policy:
        """A copy that is never trained: the reference of the KL term."""
        twin = copy.deepcopy(self)
        return twin.requires_grad_(False).eval()

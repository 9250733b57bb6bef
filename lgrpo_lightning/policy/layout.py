"""How completions are laid out for one forward pass, and how their log-probs come back to ``[N, T]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tokens = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One forward pass.

    Attributes:
        input_ids, position_ids: ``[b, L]``.
        attention_mask: ``[b, L]`` bool, or None where every position is real.
        predictors: ``[n]`` positions in the flattened ``[b * L]`` hidden states that predict a scored token.
        targets: ``[n]`` the tokens they predict.
        gather: ``[N, T]`` which of the n scores belongs to each token; n (one past the end) on padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    predictors: Tensor
    targets: Tensor
    gather: Tensor

    def spread(self, scores: Tensor) -> Tensor:
        """``[n]`` scores → ``[N, T]``, 0 on padding. Uses index_select: its backward is deterministic."""
        extended = torch.cat([scores, scores.new_zeros(1)])
        spread = extended.index_select(0, self.gather.flatten()).view_as(self.gather)
        return spread.clone()  # FSDP2 hangs a hook on what a forward pass returns, and warns of views

    @property
    def model_arguments(self) -> dict[str, object]:
        """What the model is given beside tokens and positions."""
        return {"attention_mask": self.attention_mask}

    @property
    def num_tokens(self) -> int:
        """Positions computed, padding included."""
        return self.input_ids.numel()


def padded_layout(
    prompts: Sequence[Tokens], completions: Sequence[Tokens], *, pad: int, device: torch.device | str = "cpu"
) -> Layout:
    """Every row its prompt and completion, padded on the right to the longest."""
    rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    width = max(len(r) for r in rows)
    ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
    lengths = torch.tensor([len(r) for r in rows])[:, None]
    starts = torch.tensor([len(p) for p in prompts])[:, None]
    sizes = torch.tensor([len(c) for c in completions])[:, None]
    real = torch.arange(width) < lengths
    at = torch.arange(int(sizes.max()))
    scored = at < sizes
    flat = torch.arange(len(rows))[:, None] * width + starts + at
    number = scored.flatten().cumsum(0).view_as(scored) - 1
    return Layout(
        input_ids=ids.to(device),
        position_ids=torch.arange(width).expand(len(rows), width).to(device),
        attention_mask=None if bool(real.all()) else real.to(device),
        predictors=(flat[scored] - 1).to(device),
        targets=ids.flatten()[flat[scored]].to(device),
        gather=torch.where(scored, number, int(scored.sum())).to(device),
    )

"""How completions are laid out for one forward pass, and how their log-probs come back to ``[N, T]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lgrpo_lightning.images import ImageTokens
from lgrpo_lightning.policy.image_body import prepare_pass

Tokens = Sequence[int]


class ImageReader(Protocol):
    """Gives a pass the images of its prompts."""

    def make_inputs(
        self, prompts: Sequence[Tokens], *, starts: Sequence[int], width: int, device: torch.device | str
    ) -> dict[str, Tensor]:
        """As ``PromptProcessor``."""


def place(device: torch.device | str, **tensors: Tensor) -> dict[str, Tensor]:
    """Index tensors and masks on ``device``: one copy carries them all.

    >>> {name: t.tolist() for name, t in place("cpu", ids=torch.tensor([[1, 2]]), mask=torch.tensor([True])).items()}
    {'ids': [[1, 2]], 'mask': [True]}
    """
    flat = torch.cat([t.flatten().long() for t in tensors.values()])
    if torch.device(device).type == "cuda":
        flat = flat.pin_memory().to(device, non_blocking=True)
    parts = flat.to(device).split([t.numel() for t in tensors.values()])  # type: ignore[no-untyped-call]
    return {name: part.view(t.shape).to(t.dtype) for part, (name, t) in zip(parts, tensors.items(), strict=True)}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One forward pass.

    Attributes:
        input_ids, position_ids: ``[b, L]``.
        attention_mask: ``[b, L]`` bool, or None where every position is real.
        predictors: ``[n]`` positions in the flattened ``[b * L]`` hidden states that predict a scored token.
        targets: ``[n]`` the tokens they predict.
        gather: ``[N, T]`` which of the n scores belongs to each token; n (one past the end) on padding.
        images: What the model is given of the images in the prompts, by name.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    predictors: Tensor
    targets: Tensor
    gather: Tensor
    images: Mapping[str, Tensor] = field(default_factory=dict)

    def spread(self, scores: Tensor) -> Tensor:
        """``[n]`` scores → ``[N, T]``, 0 on padding. Uses index_select: its backward is deterministic."""
        extended = torch.cat([scores, scores.new_zeros(1)])
        spread = extended.index_select(0, self.gather.flatten()).view_as(self.gather)
        return spread.clone()  # FSDP2 hangs a hook on what a forward pass returns, and warns of views

    def run(self, model: Any, **more: Any) -> tuple[Tensor, Any]:
        """(the flattened hidden states, the output) of the backbone; the head runs on scored positions only."""
        body, given = prepare_pass(model, self.input_ids, self.position_ids, self.attention_mask, self.images)
        output = body(input_ids=self.input_ids, use_cache=False, **given, **self.model_arguments, **more)
        return output.last_hidden_state.flatten(0, 1), output

    @property
    def model_arguments(self) -> dict[str, object]:
        """What the model is given beside tokens and positions."""
        return {"attention_mask": self.attention_mask}

    @property
    def router_mask(self) -> Tensor | None:
        """``[b, L]`` tokens that count in the load-balancing loss; None: all whose router logits there are."""
        return self.attention_mask

    @property
    def num_tokens(self) -> int:
        """Positions computed, padding included."""
        return self.input_ids.numel()


def group_rows(prompts: Sequence[Tokens]) -> list[list[int]]:
    """Rows with the same prompt, in order of appearance."""
    groups: dict[Tokens, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(identify(prompt), []).append(row)
    return list(groups.values())


def identify(prompt: Tokens) -> Tokens:
    """What is equal for two prompts that the model reads alike."""
    return prompt if isinstance(prompt, ImageTokens) else tuple(prompt)


def pad_left(prompts: Sequence[Tokens], *, pad: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(``[U, P]`` tokens padded on the left, bool mask, positions): the last column holds each prompt's last token.

    >>> [t.tolist() for t in pad_left([(5, 6), (7,)])]
    [[[5, 6], [0, 7]], [[True, True], [False, True]], [[0, 1], [0, 0]]]
    """
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.arange(width) >= torch.tensor([width - len(p) for p in prompts])[:, None]
    return ids, mask, (mask.long().cumsum(-1) - 1).clamp(min=0)


def number_scores(scored: Tensor) -> Tensor:
    """``[N, T]`` which of n scores, row by row, belongs to each token of the mask ``scored``; n elsewhere.

    >>> number_scores(torch.tensor([[True, True], [True, False]])).tolist()
    [[0, 1], [2, 3]]
    """
    return torch.where(scored, scored.flatten().cumsum(0).view_as(scored) - 1, int(scored.sum()))


def make_padded_layout(
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    *,
    pad: int,
    device: torch.device | str = "cpu",
    reader: ImageReader | None = None,
) -> Layout:
    """Every row its prompt and completion, padded on the right to the longest.

    Args:
        reader: Of prompts with images.
    """
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
    placed = place(
        device,
        input_ids=ids,
        position_ids=torch.arange(width).expand(len(rows), width),
        attention_mask=real,
        predictors=flat[scored] - 1,
        targets=ids.flatten()[flat[scored]],
        gather=number_scores(scored),
    )
    images = {} if reader is None else reader.make_inputs(prompts, starts=[0] * len(rows), width=width, device=device)
    layout = Layout(**placed, images=images)
    return replace(layout, attention_mask=None) if bool(real.all()) else layout

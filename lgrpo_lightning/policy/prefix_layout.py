"""Prompts computed once: their cache is repeated for the completions, and gradients flow back through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.policy.cache import DifferentiableCache, check_cache, find_cache_argument, select_rows
from lgrpo_lightning.policy.head import find_backbone
from lgrpo_lightning.policy.image_body import find_next_positions, prepare_pass
from lgrpo_lightning.policy.layout import ImageReader, Layout, Tokens, group_rows, number_scores, pad_left, place


@dataclass(frozen=True, kw_only=True)
class PrefixLayout(Layout):
    """Two forward passes: distinct prompts, padded on the left, then all completions, padded on the right.

    Padding on the left keeps the states of convolution and recurrent layers those of the prompt's last token.
    ``input_ids``, ``position_ids`` and ``attention_mask`` are those of the completions, without their last tokens,
    which predict nothing; the mask covers the prompt's columns too.

    Attributes:
        prompt_ids, prompt_positions: ``[U, P]`` of the distinct prompts.
        prompt_mask: ``[U, P]`` bool.
        owners: ``[N]`` the prompt of each completion.
    """

    prompt_ids: Tensor
    prompt_positions: Tensor
    prompt_mask: Tensor
    owners: Tensor

    @property
    def router_mask(self) -> None:
        """Padding has no router logits here."""

    @property
    def num_tokens(self) -> int:
        """Positions computed, padding included."""
        return self.prompt_ids.numel() + self.input_ids.numel()

    def run(self, model: Any, **more: Any) -> tuple[Tensor, Any]:
        """(the flattened hidden states of prompts and completions, ``[U * P + N * C, H]``; their output)."""
        argument, cache = find_cache_argument(model), DifferentiableCache(model)
        body, given = prepare_pass(model, self.prompt_ids, self.prompt_positions, self.prompt_mask, self.images)
        first = body(
            input_ids=self.prompt_ids,
            attention_mask=self.prompt_mask.long(),
            use_cache=True,
            **{argument: cache},
            **given,
            **more,
        )
        check_cache(cache, model)
        select_rows(cache, self.owners)
        mask: Any = self.attention_mask
        own = mask[:, -self.input_ids.shape[1] :]
        positions = self.position_ids
        if self.images:  # an image takes fewer positions than tokens in some models
            moved = find_next_positions(given["position_ids"]) - find_next_positions(self.prompt_positions)
            positions = positions + moved.index_select(0, self.owners)
        second = find_backbone(model)(
            input_ids=self.input_ids,
            position_ids=positions,
            # without attention it is that of the new tokens alone
            attention_mask=(own if argument == "cache_params" else mask).long(),
            use_cache=True,
            **{argument: cache},
            **more,
        )
        outputs, real = (first, second), (self.prompt_mask, own)
        return torch.cat([o.last_hidden_state.flatten(0, 1) for o in outputs]), _join_routers(outputs, real)


def _join_routers(outputs: Sequence[Any], real: Sequence[Tensor]) -> Any:
    """The router logits of several passes, by layer, without padding."""
    layers = [getattr(output, "router_logits", None) for output in outputs]
    if any(logits is None for logits in layers):
        return SimpleNamespace(router_logits=None)
    at = [mask.flatten().nonzero().squeeze(1) for mask in real]
    joined = (
        torch.cat([logits.flatten(0, -2).index_select(0, i) for logits, i in zip(layer, at, strict=True)])
        for layer in zip(*layers, strict=True)
    )
    return SimpleNamespace(router_logits=tuple(joined))


def make_prefix_layout(
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    *,
    pad: int,
    device: torch.device | str = "cpu",
    reader: ImageReader | None = None,
) -> PrefixLayout:
    """Every distinct prompt once, and every completion.

    Args:
        reader: Of prompts with images.
    """
    groups = group_rows(prompts)
    owner = {row: number for number, rows in enumerate(groups) for row in rows}
    owners = torch.tensor([owner[row] for row in range(len(prompts))])
    distinct = [prompts[rows[0]] for rows in groups]
    prompt_ids, prompt_mask, prompt_positions = pad_left(distinct, pad=pad)
    sizes = torch.tensor([len(c) for c in completions])[:, None]
    width = int(sizes.max())
    columns = max(1, width - 1)  # one of padding where all have one token: sharded ranks make as many passes
    ids = torch.tensor([[*c, *[pad] * (columns + 1 - len(c))] for c in completions])
    at = torch.arange(columns + 1)
    scored = (at < sizes)[:, :width]
    # the first token of a completion is predicted by its prompt's last column, the others by the one before
    first = (owners[:, None] + 1) * prompt_ids.shape[1] - 1
    rest = prompt_ids.numel() + torch.arange(len(completions))[:, None] * columns + at - 1
    placed = place(
        device,
        input_ids=ids[:, :columns],
        position_ids=torch.tensor([len(p) for p in prompts])[:, None] + at[:columns],
        attention_mask=torch.cat([prompt_mask.index_select(0, owners), at[:columns] < sizes - 1], dim=1),
        predictors=torch.where(at == 0, first, rest)[:, :width][scored],
        targets=ids[:, :width][scored],
        gather=number_scores(scored),
        prompt_ids=prompt_ids,
        prompt_positions=prompt_positions,
        prompt_mask=prompt_mask,
        owners=owners,
    )
    starts, width = [prompt_ids.shape[1] - len(p) for p in distinct], prompt_ids.shape[1]
    images = {} if reader is None else reader.make_inputs(distinct, starts=starts, width=width, device=device)
    return PrefixLayout(**placed, images=images)

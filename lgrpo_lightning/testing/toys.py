"""Groups made without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lgrpo_lightning.errors import refuse_text
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Completion, Group, LossInput, Message, Prompt

EOS = 0
"""Token id of the end of sequence in toy groups; it has no text."""


def toy_group(
    completions: Sequence[str] | Sequence[Sequence[int]],
    *,
    columns: Mapping[str, Any] | None = None,
    prompt: str = "1+1=",
    messages: Sequence[Message] | None = None,
    uid: str = "toy/0",
    eos: bool = False,
) -> Group:
    """A group made without a model.

    Args:
        completions: Texts, one token a character; or token ids, whose text is the ids with a space after each.
        messages: The chat behind the prompt, for reward functions that read messages.
        eos: Whether an end-of-sequence token is appended to each completion.

    >>> toy_group(["ab"], eos=True).completions[0].text_ends
    (1, 2, 2)
    """
    refuse_text("completions", completions)
    made = Prompt(
        uid=uid,
        text=prompt,
        token_ids=tuple(map(ord, prompt)),
        messages=None if messages is None else tuple(messages),
        columns=dict(columns or {}),
    )
    return Group(prompt=made, completions=tuple(_completion(c, eos) for c in completions))


def _completion(completion: str | Sequence[int], eos: bool) -> Completion:
    pieces = list(completion) if isinstance(completion, str) else [f"{i} " for i in completion]
    ids = [ord(c) if isinstance(c, str) else c for c in completion]
    if eos:
        pieces.append("")
        ids.append(EOS)
    ends = torch.tensor([len(p) for p in pieces], dtype=torch.long).cumsum(0).tolist()
    return Completion(
        token_ids=tuple(ids),
        logprobs=torch.full((len(ids),), -0.5),
        text="".join(pieces),
        text_ends=tuple(ends),
        finish_reason="stop" if eos else "length",
        mask=torch.ones(len(ids), dtype=torch.bool),
    )


def toy_loss_input(
    *,
    ratios: Sequence[Sequence[float]] | None = None,
    advantages: Sequence[Sequence[float]],
    logprobs: Sequence[Sequence[float]] | None = None,
) -> LossInput:
    """Input of a policy loss: every token is trained, and the sampler is the policy before the update.

    Args:
        ratios: π/π_old of every token; 1 by default.
        advantages: Of every token.
        logprobs: Of every token; -1 by default. They carry gradients.

    >>> toy_loss_input(ratios=[[2.0]], advantages=[[1.0]]).log_ratio.exp().tolist()
    [[2.0]]
    """
    worth = torch.tensor(advantages)
    now = torch.full_like(worth, -1.0) if logprobs is None else torch.tensor(logprobs)
    old = now if ratios is None else now - torch.tensor(ratios).log()
    return LossInput(
        logprobs=now.clone().requires_grad_(),
        old_logprobs=old,
        sampler_logprobs=old,
        advantages=worth,
        entropies=torch.ones_like(worth),
        mask=torch.ones_like(worth, dtype=torch.bool),
    )


def toy_tree(group: Group | Sequence[str] | Sequence[Sequence[int]]) -> ProcessTree:
    """The token-prefix tree of a group, or of the toy group with these completions.

    >>> toy_tree(["ab", "ac"]).set_sizes().tolist()
    [[2, 1], [2, 1]]
    """
    group = group if isinstance(group, Group) else toy_group(group)
    return ProcessTree.from_sequences(group.sequences).masked(group.masked().mask)

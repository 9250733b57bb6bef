"""The tokens that may be sampled: those with a text that are not suppressed. Embeddings are often padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The model's ids that may be sampled; all others have probability 0 in sampling and log-probs.

    Attributes:
        total: Number of the model's ids.
        size: The last id that may be sampled, plus 1.
        holes: Ids below ``size`` that may not be sampled.
        suppressed: Ids with a text that the model's configuration suppresses.

    >>> Vocabulary(total=6, size=4, holes=(1,)).excluded
    [1, 4, 5]
    """

    total: int
    size: int
    holes: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every id may be sampled."""
        return self.size == self.total and not self.holes

    @property
    def excluded(self) -> list[int]:
        """The ids that may not be sampled."""
        return [*self.holes, *range(self.size, self.total)]

    def masked(self, logits: Tensor) -> Tensor:
        """``[..., V]`` logits without those of the ids at the end that may not be sampled, and -inf in the holes.

        >>> Vocabulary(total=4, size=3, holes=(1,)).masked(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist()
        [1.0, -inf, 3.0]
        """
        if self.size < logits.shape[-1]:
            logits = logits[..., : self.size]
        if self.holes:
            logits = logits.index_fill(-1, torch.tensor(self.holes, device=logits.device), -torch.inf)
        return logits

    def replaced(self, targets: Tensor) -> Tensor:
        """``targets`` in which ids that may not be sampled are replaced by one that may.

        What an environment says may have such ids. It is not trained, so that their log-probs do not matter, and a
        log-prob of -inf would only be in the way.

        >>> Vocabulary(total=4, size=3, holes=(1,)).replaced(torch.tensor([0, 1, 2, 3])).tolist()
        [0, 0, 2, 0]
        """
        if self.complete:
            return targets
        excluded = torch.tensor(self.excluded, device=targets.device)
        drawn = next(i for i in range(self.size) if i not in set(self.holes))
        return torch.where(torch.isin(targets, excluded), drawn, targets)

    def check(self, completions: Sequence[Sequence[int]]) -> None:
        """Refuse completions with ids that may not be sampled: their log-prob would be -inf.

        Raises:
            ValueError: With the completion and the id.
        """
        if self.complete:
            return
        excluded = set(self.excluded)
        for row, ids in enumerate(completions):
            if found := excluded.intersection(ids):
                first = min(found)
                why = (
                    "which policy.suppress_tokens names or which stands for an image"
                    if first in self.suppressed
                    else "for which the tokenizer has no text"
                )
                raise UserError(
                    f"Completion {row} of a batch has the token id {first}, {why}: its probability is 0. A sampler "
                    "must not draw the ids that are not in its source's vocabulary."
                )

    def announcement(self) -> str:
        """The line of the log."""
        without = [i for i in self.excluded if i not in set(self.suppressed)]
        parts = [f"have no text in the tokenizer (the first is {without[0]})"] if without else []
        if self.suppressed:
            parts.append(f"{len(self.suppressed)} are suppressed" if without else "are suppressed")
        return (
            f"{len(without or self.suppressed)} of the model's {self.total} token ids {', '.join(parts)}: they are "
            "never drawn, and their probability is 0 in log-probs and entropies."
        )


def vocabulary(tokenizer: Any, total: int, ends: Sequence[int] = (), suppressed: Sequence[int] = ()) -> Vocabulary:
    """The vocabulary of a model with ``total`` ids.

    Args:
        ends: Ids that may be sampled without a text: those that end a completion.
        suppressed: Ids that may not be sampled.

    Raises:
        ValueError: Fewer than two ids are left.
    """
    known = {*tokenizer.get_vocab().values(), *ends} - set(suppressed)
    if suppressed and len([i for i in known if i < total]) < 2:
        raise UserError("policy.suppress_tokens leaves fewer than two tokens to draw.")
    size = max((i + 1 for i in known if i < total), default=total)
    return Vocabulary(
        total=total,
        size=size,
        holes=tuple(i for i in range(size) if i not in known),
        suppressed=tuple(sorted(set(suppressed))),
    )

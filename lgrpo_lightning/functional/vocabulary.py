"""The tokens that may be drawn: those with a text. Embeddings are often padded beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Which of the model's ids have a text; the others have probability 0, in sampling and log-probs alike.

    Attributes:
        total: Ids of the model.
        size: One past the last id with a text.
        holes: Ids below ``size`` without one.
    """

    total: int
    size: int
    holes: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every id has a text."""
        return self.size == self.total and not self.holes

    @property
    def excluded(self) -> list[int]:
        """The ids without a text."""
        return [*self.holes, *range(self.size, self.total)]

    def masked(self, logits: Tensor) -> Tensor:
        """``[..., V]`` logits without those of the ids at the end that have no text, and -inf in the holes.

        >>> Vocabulary(total=4, size=3, holes=(1,)).masked(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist()
        [1.0, -inf, 3.0]
        """
        if self.size < logits.shape[-1]:
            logits = logits[..., : self.size]
        if self.holes:
            logits = logits.index_fill(-1, torch.tensor(self.holes, device=logits.device), -torch.inf)
        return logits

    def check(self, completions: Sequence[Sequence[int]]) -> None:
        """Refuse completions with ids that have no text: their log-prob would be -inf.

        Raises:
            ValueError: With the completion and the id.
        """
        if self.complete:
            return
        excluded = set(self.excluded)
        for row, ids in enumerate(completions):
            if found := excluded.intersection(ids):
                raise ValueError(
                    f"Completion {row} of a batch has the token id {min(found)}, for which the tokenizer has no "
                    "text: its probability is 0. A sampler must not draw the ids that are not in its source's "
                    "vocabulary."
                )

    def announcement(self) -> str:
        """The line of the log."""
        return (
            f"{len(self.excluded)} of the model's {self.total} token ids have no text in the tokenizer (the first is "
            f"{self.excluded[0]}): they are never drawn, and their probability is 0 in log-probs and entropies."
        )


def vocabulary(tokenizer: Any, total: int, ends: Sequence[int] = ()) -> Vocabulary:
    """The vocabulary of a model with ``total`` ids.

    Args:
        ends: Ids that may be drawn without a text: those that end a completion.
    """
    known = {*tokenizer.get_vocab().values(), *ends}
    size = max((i + 1 for i in known if i < total), default=total)
    return Vocabulary(total=total, size=size, holes=tuple(i for i in range(size) if i not in known))

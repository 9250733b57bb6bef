"""The toy of the λ-GRPO paper: a walk down a binary tree, with one leaf to find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.errors import UserError

LETTERS = ("L", "R")


class BinaryTreeTask(PromptSource):
    """One prompt, whose completions are walks down a binary tree (arXiv:2509.21154, Table 1).

    The row has the columns ``prompt`` and ``target``, the one leaf that ``BinaryTreeReward`` pays in full for. With
    ``sampling.max_new_tokens`` as long as the target and all other tokens suppressed, every completion is a leaf.

    Args:
        target: The path to the leaf, of the letters L and R.
        prompt: What every walk begins with.

    Raises:
        ValueError: ``target`` is empty or has other letters.

    >>> BinaryTreeTask(target="LRRL").rows()
    [{'prompt': '^', 'target': 'LRRL'}]
    """

    def __init__(self, target: str = "LRRL", prompt: str = "^") -> None:
        if not target or set(target) - set(LETTERS):
            raise UserError(f"BinaryTreeTask: target is {target!r}; it must be a path of L and R, such as 'LRRL'.")
        self.target, self.prompt = target, prompt

    def rows(self) -> Sequence[dict[str, Any]]:
        return [{"prompt": self.prompt, "target": self.target}]

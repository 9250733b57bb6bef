"""Generalised advantage estimation over process steps, such as turns, with the values of the process tree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.process_tree import ProcessTree


class TreeGAE(WeightedGRPO):
    r"""GAE without a value network: the group's other completions tell what a state is worth (after arXiv:2605.13217).

    Let k = 1 … K be the steps of completion i that train a token of it (its turns, with ``TurnSegmenter``), s_k the
    state before step k, which is everything before it, and a_j GRPO's advantage of completion j.

    .. math:: V_i(s) = \mathrm{mean} \{ a_j : j \ne i \text{ passes through } s \}, \quad V_i(s_{K+1}) = a_i

    .. math:: \delta_k = V_i(s_{k+1}) - V_i(s_k), \quad A_{i,t} = \sum_{l \ge k} \Lambda^{l-k} \delta_l
        \text{ for t in step k}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    A state that no other completion passes through has the value of the nearest state before it that one does. Λ = 0
    leaves the change in value at each step. Λ = 1 gives a_i - V_i(s_k), a baseline for each state: the gradient then
    has no bias where steps do not depend on the other completions (turns, lines; not exact tokens, which end a step
    where completions part), and where nothing is shared it is that of RLOO.

    The paper's abstract names TD residuals over values that are means over rollouts through one state. That a
    completion does not count in its own values is this library's: in a state of its own it would be its own baseline,
    and the rest of it would learn nothing. Nothing is discounted, for the values are those of the outcome. A turn's own
    reward needs no term of its own where the outcome contains it.

    Args:
        gae_lambda: Λ, from 0 to 1. It has nothing to do with process sets.
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    Raises:
        ValueError: An argument is out of range.

    By hand, two steps each, the first shared by two completions; a = 1, -1, 0 (not divided). V_1: 0 - 1/2 at the
    start, the mean of -1 and 0; -1 after the shared step; then a_1 = 1.

    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_steps([["x", "y"], ["x", "z"], ["u", "v"]], [[0, 1]] * 3)
    >>> rewards = Rewards(outcome=torch.tensor([2.0, 0.0, 1.0]))
    >>> TreeGAE(gae_lambda=0.0, scale="none").estimate(rewards, tree).advantages.tolist()
    [[-0.5, 2.0], [0.5, -2.0], [0.0, 0.0]]
    >>> TreeGAE(gae_lambda=1.0, scale="none").estimate(rewards, tree).advantages.tolist()
    [[1.5, 2.0], [-1.5, -2.0], [0.0, 0.0]]
    """

    def __init__(
        self, gae_lambda: float = 0.95, scale: Scale = "group", eps: float = 1e-4, lambda_power: Power = 0.0
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        require("TreeGAE: ", locals(), (0 <= gae_lambda <= 1, "gae_lambda", "from 0 to 1"))
        self.gae_lambda = gae_lambda

    def token_advantages(self, outcome: Tensor, tree: ProcessTree, deviation: Tensor | None) -> Tensor:
        """``[G, T]`` the GAE of the step of each token."""
        advantages = self.outcome_advantages(outcome, deviation).tolist()
        valid, trained = (~outcome.isnan()).tolist(), tree.trained

        def sum_up(members: Sequence[int]) -> tuple[float, int]:
            own = [advantages[m] for m in members if valid[m]]
            return sum(own), len(own)

        everyone = {-1: sum_up(range(len(advantages)))}
        sums = everyone | {number: sum_up(step.members) for number, step in enumerate(tree.steps)}
        paths: list[list[tuple[int, int, int]]] = [[] for _ in advantages]
        for step in tree.steps:
            for member, (start, end) in zip(step.members, step.spans, strict=True):
                paths[member].append((step.parent, start, end))
        out = torch.zeros(tree.sizes.shape)
        for member, own in enumerate(advantages):
            if valid[member]:
                values = _list_values(own, [sums[parent] for parent, _, _ in paths[member]])
                later, following = 0.0, own
                for value, (_, start, end) in reversed(list(zip(values, paths[member], strict=True))):
                    if bool(trained[member, start:end].any()):
                        later = following - value + self.gae_lambda * later
                        out[member, start:end], following = later, value
        return out


def _list_values(own: float, states: list[tuple[float, int]]) -> list[float]:
    """The value of each state, of (sum, number) of all that pass through it."""
    values: list[float] = []
    for total, count in states:
        nearest = values[-1] if values else 0.0
        values.append((total - own) / (count - 1) if count > 1 else nearest)
    return values

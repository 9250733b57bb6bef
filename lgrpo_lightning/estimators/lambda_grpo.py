"""λ-GRPO: GRPO whose tokens count once per process set instead of once per completion."""

from __future__ import annotations

from lgrpo_lightning.estimators.grpo import GRPO, Power, Scale


class LambdaGRPO(GRPO):
    r"""GRPO with every token weighted by the inverse size of its process set (arXiv:2509.21154, section 5).

    .. math:: A_{i,t} = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std} + \epsilon}, \quad
        w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    GRPO counts a process step once for each completion that shares it; the weight removes this factor. Over exact
    tokens the weights of a group add up to its number of distinct prefixes, the nodes of its trie (with p = 1).

    Args:
        scale: Standard deviation (with Bessel's correction) that divides the advantages: of the "group", of the
            "batch" (all rewards of the rollout on all ranks), or "none" (Dr.GRPO).
        eps: Added to the standard deviation; above 0.
        power: p, at least 0: 1 is the paper's λ-GRPO, 0 is GRPO. With ``SignedPower`` p depends on the sign of the
            mean advantage of λ(i,t): by default only blame counts once (p = 1 below 0, 0 elsewhere).

    >>> import torch
    >>> from lgrpo_lightning.estimators import SignedPower
    >>> from lgrpo_lightning.process_tree import ProcessTree
    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3]])
    >>> rewards = Rewards(outcome=torch.tensor([0.0, 1.0, 2.0]))
    >>> LambdaGRPO().estimate(rewards, tree).weights.tolist()
    [[0.5, 1.0], [0.5, 0.0], [1.0, 0.0]]
    >>> LambdaGRPO(power=2).estimate(rewards, tree).weights.tolist()
    [[0.25, 1.0], [0.25, 0.0], [1.0, 0.0]]
    >>> better = Rewards(outcome=torch.tensor([2.0, 1.0, 0.0]))
    >>> LambdaGRPO(power=SignedPower()).estimate(better, tree).weights.tolist()
    [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    """

    def __init__(self, scale: Scale = "group", eps: float = 1e-4, power: Power = 1.0) -> None:
        super().__init__(scale=scale, eps=eps)
        self.set_power("power", power)

"""λ-GRPO: GRPO whose tokens count once per process set instead of once per completion."""

from __future__ import annotations

from lgrpo_lightning.estimators.grpo import GRPO, Scale, check_power


class LambdaGRPO(GRPO):
    r"""GRPO with every token weighted by the inverse size of its process set (arXiv:2509.21154, section 5).

    .. math:: A_{i,t} = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std} + \epsilon}, \quad
        w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    GRPO lets a process step count as often as completions share it; the weight takes that back. Over exact
    tokens the weights of a group add up to its number of distinct prefixes, the nodes of its trie (with p = 1).

    Args:
        scale: Which standard deviation (with Bessel's correction) divides the advantages: "group" that of the
            group, "batch" that of all rewards of the rollout batch on all ranks, "none" nothing (Dr.GRPO).
        eps: Added to the standard deviation; above 0.
        power: p, how much of the count is taken back: 1 is the paper's, 0 is GRPO, at least 0.

    >>> from lgrpo_lightning.process_tree import ProcessTree
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3]])
    >>> LambdaGRPO().weights(tree).tolist()
    [[0.5, 1.0], [0.5, 0.0], [1.0, 0.0]]
    >>> LambdaGRPO(power=2).weights(tree).tolist()
    [[0.25, 1.0], [0.25, 0.0], [1.0, 0.0]]
    """

    def __init__(self, scale: Scale = "group", eps: float = 1e-4, power: float = 1.0) -> None:
        super().__init__(scale=scale, eps=eps)
        self.power = check_power(type(self).__name__, "power", power)

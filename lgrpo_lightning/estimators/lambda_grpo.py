"""λ-GRPO: GRPO whose tokens count once per process set instead of once per completion."""

from __future__ import annotations

from lgrpo_lightning.estimators.grpo import GRPO, Scale, check_power


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
        power: p, at least 0: 1 is the paper's λ-GRPO, 0 is GRPO.

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

"""How far GRPO's and λ-GRPO's gradients point along the exact policy gradient and the exact natural gradient.

    python tests/benchmarks/natural_gradient.py [--groups 200] [--policies 5] [--size 16]

On the paper's toy (a walk down a binary tree of depth 4) with a tabular softmax policy, both gradients are known in
closed form: with visitation d(s) and advantage A(s, a) the policy gradient is d(s) π(a|s) A(s, a), the natural one
A(s, a). The estimators' gradients are means over many groups, through the library's own trees, estimators and
advantages. Prints, for policies from uniform to sharp, the mean cosine of each with both; last a line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.estimators import LambdaGRPO, SignedPower
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards import BinaryTreeReward
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.types import Rewards

DEPTH, TARGET = 4, "LRRL"
STATES = ["".join(path) for depth in range(DEPTH) for path in product("LR", repeat=depth)]
LEAVES = ["".join(path) for path in product("LR", repeat=DEPTH)]
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, SignedPower(), SignedPower(blame=0.0, praise=1.0))
CELLS = [(shared, penalty) for shared in (1, 2) for penalty in (-0.5, -1.0, -1.5)]


def leaf_rewards(shared: int, penalty: float) -> dict[str, float]:
    """What every leaf pays."""
    group = toy_group(LEAVES, columns={"target": TARGET})
    tree = ProcessTree.from_sequences(group.sequences)
    outcome = BinaryTreeReward(shared=shared, penalty=penalty).score(group, tree).outcome
    return dict(zip(LEAVES, outcome.tolist(), strict=True))


def exact(policy: Tensor, pays: dict[str, float]) -> tuple[Tensor, Tensor]:
    """The policy gradient and the natural gradient, ``[S, 2]``, of a tabular policy ``[S, 2]``."""
    value = {leaf: torch.tensor(pays[leaf], dtype=torch.double) for leaf in LEAVES}
    visits = {"": torch.tensor(1.0, dtype=torch.double)}
    for s, state in enumerate(STATES):
        for a, letter in enumerate("LR"):
            visits[state + letter] = visits[state] * policy[s, a]
    advantage = torch.zeros_like(policy)
    for s in reversed(range(len(STATES))):
        q = torch.stack([value[STATES[s] + letter] for letter in "LR"])
        value[STATES[s]] = (policy[s] * q).sum()
        advantage[s] = q - value[STATES[s]]
    reached = torch.stack([visits[state] for state in STATES])[:, None]
    return reached * policy * advantage, advantage - advantage.mean(-1, keepdim=True)


def sampled(policy: Tensor, pays: dict[str, float], size: int, groups: int, power: Any) -> Tensor:
    """The mean over groups of an estimator's gradient in the logits, ``[S, 2]``."""
    estimator, total = LambdaGRPO(power=power), torch.zeros_like(policy)
    generator = torch.Generator().manual_seed(0)  # the same walks for every power
    place = {state: s for s, state in enumerate(STATES)}
    for _ in range(groups):
        walks = [""] * size
        for _ in range(DEPTH):
            right = torch.rand(size, generator=generator, dtype=torch.double)
            walks = [w + "LR"[int(r > policy[place[w], 0])] for w, r in zip(walks, right.tolist(), strict=True)]
        tree = ProcessTree.from_sequences([["LR".index(letter) for letter in walk] for walk in walks])
        outcome = torch.tensor([pays[walk] for walk in walks])
        credit = estimator.estimate(Rewards(outcome=outcome), tree)
        push = (credit.advantages * credit.weights).double()
        for walk, row in zip(walks, push, strict=True):
            for t, letter in enumerate(walk):
                s = place[walk[:t]]
                total[s] -= row[t] * policy[s]
                total[s, "LR".index(letter)] += row[t]
    return total / groups


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two gradients."""
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def policies(spread: float, count: int) -> Iterator[Tensor]:
    """Tabular policies whose logits deviate from 0 by ``spread``."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count if spread else 1):
        logits = spread * torch.randn(len(STATES), 2, generator=generator, dtype=torch.double)
        yield logits.softmax(-1)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--policies", type=int, default=5)
    parser.add_argument("--size", type=int, default=16, help="completions of a group")
    options = parser.parse_args()
    rows = []
    print("| logits' deviation | power | cosine with the policy gradient | with the natural gradient |")
    print("|---|---|---|---|")
    for spread in (0.0, 1.0, 2.0):
        for power in POWERS:
            found = []
            for (shared, penalty), policy in product(CELLS, policies(spread, options.policies)):
                pays = leaf_rewards(shared, penalty)
                plain, natural = exact(policy, pays)
                mean = sampled(policy, pays, options.size, options.groups, power)
                found.append((cosine(mean, plain), cosine(mean, natural)))
            both = [sum(values) / len(values) for values in zip(*found, strict=True)]
            name = f"blame {power.blame:g}, praise {power.praise:g}" if isinstance(power, SignedPower) else f"{power:g}"
            rows.append({"spread": spread, "power": name, "plain": both[0], "natural": both[1]})
            print(f"| {spread:g} | {name} | {both[0]:.3f} | {both[1]:.3f} |", flush=True)
    print(json.dumps({"benchmark": "natural_gradient", "size": options.size, "rows": rows}))


if __name__ == "__main__":
    main()

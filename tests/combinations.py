"""Every policy loss with every advantage estimator, with and without λ weights, in both layouts: trained, or refused.

``python -m tests.combinations`` writes docs/combinations.md; ``tests/docs/test_combinations.py`` holds it to account.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lgrpo_lightning import GRPOModule
from lgrpo_lightning.contracts import AdvantageEstimator, PolicyLoss
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.choice import LayoutName
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.registry.hookspecs import PROJECT
from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.rollouts.checks import check_credits
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.training import Objective, Updates
from lgrpo_lightning.training.token_loss import EntropyBonus
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import Rewards, TrainBatch
from tests.updates import run_update

PAGE = Path(__file__).parent.parent / "docs" / "combinations.md"
SEQUENCES = [
    [[5, 6, 7, 1], [5, 6, 8, 9, 1], [5, 6, 7, 1], [10, 1]],
    [[11, 12], [11, 13, 14, 15], [17], [11, 12, 13]],
]
OUTCOMES = [[1.0, 0.0, 0.5, 0.25], [0.0, 0.0, 1.0, 2.0]]
LAYOUTS: tuple[LayoutName, ...] = ("padded", "tree")
STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One of them. ``token``: the token form of a loss that has one; ``weighted``: with λ weights."""

    loss: str
    token: bool
    estimator: str
    weighted: bool

    def made(self) -> tuple[PolicyLoss, AdvantageEstimator]:
        """Both components."""
        loss = components()[self.loss].cls
        estimator = components()[self.estimator].cls
        return loss(**({"token": True} if self.token else {})), estimator(**_weights(estimator, self.weighted))


def names(kind: str) -> list[str]:
    """The built-in components of a kind."""
    return sorted(n for n, c in components().items() if c.kind == kind and c.package == PROJECT)


def combinations() -> Iterator[Combination]:
    """All of them."""
    for estimator in names("advantage_estimator"):
        for weighted in (False, True):
            if weighted and not _weights(components()[estimator].cls, True):
                continue
            for loss in names("loss"):
                for token in forms(loss):
                    yield Combination(loss=loss, token=token, estimator=estimator, weighted=weighted)


def forms(loss: str) -> list[bool]:
    """Whether the token form, of each form that a loss has."""
    return [False, True] if "token" in inspect.signature(components()[loss].cls).parameters else [False]


def _weights(estimator: type, weighted: bool) -> dict[str, float]:
    """The option of λ weights; none where an estimator has none."""
    parameters = inspect.signature(estimator).parameters
    key = next((k for k in ("lambda_power", "power") if k in parameters), None)
    return {} if key is None else {key: float(weighted)}


def outcome(combination: Combination) -> str:
    """Empty where two optimizer steps were made in both layouts; else the refusal."""
    loss, estimator = combination.made()
    try:
        GRPOModule(reward_model=ExactMatch(), loss=loss, advantage_estimator=estimator)
    except ValueError as refused:
        return str(refused)
    for layout in LAYOUTS:
        train(loss, estimator, layout)
    return ""


def train(loss: PolicyLoss, estimator: AdvantageEstimator, layout: LayoutName) -> None:
    """Two optimizer steps from the same weights and rollout, with all that stands beside the loss.

    Raises:
        AssertionError: A number is not finite, or the weights stay.
    """
    policy, reference, start = models(layout)
    policy.load_state_dict(start)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    steps: list[float] = []

    def step() -> None:
        gradient = torch.stack([p.grad.norm() for p in policy.parameters() if p.grad is not None])
        steps.append(float(gradient.norm()))
        optimizer.step()
        optimizer.zero_grad()

    objective = Objective(kl_coef=0.05, entropy_coef=0.01, top_entropy=0.8, off_policy_kl=5.0)
    means = Means()
    data = batch(estimator)
    run_update(
        Update(
            policy=policy,
            reference=reference,
            loss=loss,
            objective=objective,
            bonus=EntropyBonus(objective),
            updates=Updates(iterations=STEPS),
            temperature=1.0,
            max_length=8,
            ranks=Ranks(),
            backward=lambda value, last: value.backward(),  # type: ignore[no-untyped-call]
            importance="none",
        ),
        data,
        [range(len(data))],
        means,
        step,
    )
    assert policy.layout == layout
    assert len(steps) == STEPS
    assert all(0 < norm < float("inf") for norm in steps), f"gradient norms {steps}"
    assert all(x == x for x in means.values().values()), means.values()


@cache
def models(layout: LayoutName) -> tuple[Policy, Any, dict[str, torch.Tensor]]:
    """(policy, reference, its weights at the start), shared by all combinations."""
    policy = Policy(PolicyConfig(path="lgrpo:arithmetic", layout=layout, verify=False))
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    return policy, policy.copy_frozen(), start


def batch(estimator: AdvantageEstimator) -> TrainBatch:
    """Two groups with outcomes, a reward for each process step, and for who reads them of each token."""
    groups = [toy_group(s, uid=str(n), prompt="\x05\x06") for n, s in enumerate(SEQUENCES)]
    trees = [ProcessTree.from_sequences(s) for s in SEQUENCES]
    rewards = [
        Rewards(
            outcome=torch.tensor(o),
            steps=torch.tensor([0.3 * i % 1.0 for i in range(len(t.steps))]),
            tokens=token_rewards(t) if estimator.reads == ("outcome", "tokens") else None,
        )
        for o, t in zip(OUTCOMES, trees, strict=True)
    ]
    credits = estimator.estimate_batch(rewards, trees, reduce=lambda x: x)
    check_credits(estimator, groups, credits)
    return TrainBatch.from_groups(groups, credits)


def token_rewards(tree: ProcessTree) -> torch.Tensor:
    """A number for every token."""
    sizes = tree.set_sizes().float()
    return torch.where(sizes > 0, 0.3 * sizes % 1.0 - 0.4, torch.nan)


HEAD = """\
# Losses and estimators

The table says which [policy loss](components.md#policyloss) works with which [advantage
estimator](components.md#advantageestimator). The column "λ weights" says whether the estimator weights each token
by 1/|λ|, as λ-GRPO does ([definition](algorithm.md#definitions)).

- "yes" means that the combination trains, both in padded rows (one row per completion) and in trees (tokens that
  several completions share are computed once).
- "no" means that the combination is refused before the first optimizer step.
- ", token" means the token form of the loss, `init_args: {token: true}`.

`python -m tests.combinations` makes the table: each "yes" made two optimizer steps, with all terms of
[`model.objective`](configuration.md#modelobjective).

With `GSPO`, `GMPO` and `LUSPO` all tokens of a completion share one ratio. If its tokens have different advantages,
these losses use the mean. The token forms use the advantage of each token."""
REFUSED = "The error of each loss for the first combination that is refused:"


def page(found: dict[Combination, str]) -> str:
    """The text of docs/combinations.md."""
    columns = [(loss, token) for loss in names("loss") for token in forms(loss)]
    titles = [f"`{loss}`{', token' if token else ''}" for loss, token in columns]
    lines = [
        HEAD,
        "",
        "| estimator | λ weights | " + " | ".join(titles) + " |",
        "|" + "---|" * (len(columns) + 2),
    ]
    for estimator, weighted in dict.fromkeys((c.estimator, c.weighted) for c in found):
        one = {"estimator": estimator, "weighted": weighted}
        tried = [found[Combination(loss=loss, token=token, **one)] for loss, token in columns]
        cells = ["no" if refusal else "yes" for refusal in tried]
        lines.append(f"| `{estimator}` | {'yes' if weighted else 'no'} | " + " | ".join(cells) + " |")
    lines += ["", "## Refused", "", REFUSED, "", "| loss | first error |", "|---|---|"]
    first = {c.loss: said for c, said in reversed(found.items()) if said}
    lines += [f"| `{loss}` | `{said.replace('|', chr(92) + '|')}` |" for loss, said in sorted(first.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page({c: outcome(c) for c in combinations()}), encoding="utf-8")

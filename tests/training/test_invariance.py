"""For every loss with every estimator: nothing depends on micro-batches, ranks, the order of groups or the layout.

The losses and estimators are those of the registry, plug-ins included. One tiny model scores for all of them; loss and
gradient of its weights are compared.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lgrpo_lightning.contracts import AdvantageEstimator, PolicyLoss
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.training import Objective, Updates
from lgrpo_lightning.training.compatibility import check_weights
from lgrpo_lightning.training.token_loss import EntropyBonus
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import Group, Rewards, TrainBatch
from tests.training.several_ranks import together
from tests.updates import run_update

SEQUENCES = [
    [[5, 6, 7, 1], [5, 6, 8, 9, 1], [5, 6, 7, 1], [10, 1]],
    [[11, 12], [11, 13, 14, 15, 16, 1], [17], [11, 12, 13]],
    [[5, 6], [5, 20, 21], [22, 23, 24, 25], [22, 23, 1]],
    [[30, 31, 32, 1], [30, 31, 1], [30, 33], [34, 35, 36, 1]],
]
OUTCOMES = [[1.0, 0.0, 0.5, 0.25], [0.0, 0.0, 1.0, 2.0], [1.0, 0.0, 0.0, 1.0], [0.3, 0.9, 0.1, 0.2]]
NAMES = {kind: sorted(n for n, c in components().items() if c.kind == kind) for kind in ("loss", "advantage_estimator")}
OBJECTIVE = Objective(kl_coef=0.1, entropy_coef=0.05, top_entropy=0.63, off_policy_kl=0.05, kl_unbiased=True)


def groups() -> list[Group]:
    return [toy_group(s, uid=str(n), prompt="!" * (n + 1)) for n, s in enumerate(SEQUENCES)]


def rewards(number: int) -> Rewards:
    """Outcomes, and a reward for each process step."""
    tree = ProcessTree.from_sequences(SEQUENCES[number])
    steps = torch.tensor([0.2 * len(step.members) - 0.1 * i for i, step in enumerate(tree.steps)])
    sizes = tree.set_sizes().float()
    tokens = torch.where(sizes > 0, 0.3 * sizes % 1.0 - 0.4, torch.nan)
    return Rewards(outcome=torch.tensor(OUTCOMES[number]), steps=steps, tokens=tokens)


@dataclass
class Models:
    """The same weights in several guises, a reference, and log-probs before the update by group."""

    whole: Policy
    divided: Policy
    tree: Policy
    prefix: Policy
    other_rank: Policy
    reference: Any
    old: list[Tensor]


@pytest.fixture(scope="module")
def models(model_folder: Callable[..., Path]) -> Models:
    path = str(model_folder("llama"))
    made = {
        name: Policy(PolicyConfig(path=path, verify=False, **options))
        for name, options in {
            "whole": {"layout": "padded"},
            "divided": {"layout": "padded", "micro_batch_tokens": 20},
            "tree": {"layout": "tree"},
            "prefix": {"layout": "prefix"},
            "other_rank": {"layout": "padded"},
        }.items()
    }
    reference = made["whole"].copy_frozen()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(1.05)
    old = []
    for group in groups():
        with torch.no_grad():
            now = made["whole"]([group.prompt.token_ids] * 4, group.sequences, layout="padded").logprobs
        old.append(now + 0.3 * torch.randn(now.shape, generator=generator))
    return Models(reference=reference, old=old, **made)


def updated(
    policy: Policy,
    models: Models,
    loss: PolicyLoss,
    estimator: AdvantageEstimator,
    order: Sequence[int],
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> tuple[float, list[Tensor]]:
    """(loss, gradient of every weight) of one optimizer step on the groups of ``order``."""
    mine = [groups()[i] for i in order]
    trees = [ProcessTree.from_sequences(SEQUENCES[i]) for i in order]
    credits = estimator.estimate_batch([rewards(i) for i in order], trees, reduce=ranks.sum)
    data = TrainBatch.from_groups(mine, credits)
    before = torch.nn.utils.rnn.pad_sequence([row for i in order for row in models.old[i]], batch_first=True)
    data = replace(data, sampler_logprobs=torch.where(data.mask, before[:, : data.mask.shape[1]], 0.0))
    policy.zero_grad()
    means = Means()
    run_update(
        Update(
            policy=policy,
            reference=copy.copy(models.reference),
            loss=loss,
            objective=OBJECTIVE,
            bonus=EntropyBonus(OBJECTIVE),
            updates=Updates(old_logprobs="sampler"),
            temperature=1.0,
            max_length=8,
            ranks=ranks,
            backward=lambda value, last: value.backward(),  # type: ignore[no-untyped-call]
            importance="none",
        ),
        data,
        [range(len(data))],
        means,
    )
    value = means.values()["loss"] / ranks.world_size
    return value, [p.grad / ranks.world_size for p in policy.parameters() if p.grad is not None]


def ways(models: Models, loss: PolicyLoss, estimator: AdvantageEstimator) -> dict[str, Any]:
    """(loss, gradient) by how the work is divided."""

    def on(rank: int, ranks: Ranks) -> Any:
        return updated((models.whole, models.other_rank)[rank], models, loss, estimator, range(rank, 4, 2), ranks)

    def one(policy: Policy, order: Sequence[int] = range(4)) -> Any:
        return updated(policy, models, loss, estimator, order)

    found = {
        "whole": one(models.whole),
        "micro-batches": one(models.divided),
        "trees": one(models.tree),
        "prompts once": one(models.prefix),
        "order": one(models.whole, [2, 0, 3, 1]),
    }
    (left, a), (right, b) = together(2, on)
    return found | {"ranks": (left + right, [x + y for x, y in zip(a, b, strict=True)])}


def estimators(name: str) -> list[AdvantageEstimator]:
    """The estimator with and without λ weights; once where it has none."""
    cls = components()[name].cls
    parameters = inspect.signature(cls).parameters
    key = next((k for k in ("lambda_power", "power") if k in parameters), None)
    return [cls()] if key is None else [cls(**{key: 0.0}), cls(**{key: 1.0})]


def fitting(name: str, estimator: AdvantageEstimator) -> PolicyLoss | None:
    """The loss as it goes with the estimator; None where it does not."""
    cls = components()[name].cls
    loss: PolicyLoss = cls()
    if loss.level == "token" or estimator.power == 0:
        return loss
    with pytest.raises(ValueError, match="has no tokens to weigh"):
        check_weights(loss, estimator)
    return cls(token=True) if hasattr(loss, "token") else None


@pytest.mark.parametrize(
    ("loss_name", "estimator_name"),
    [
        pytest.param(*pair, marks=[] if "ClippedSurrogate" in pair or "LambdaGRPO" in pair else [pytest.mark.slow])
        for pair in itertools.product(NAMES["loss"], NAMES["advantage_estimator"])
    ],
)
def test_nothing_depends_on_how_work_is_divided(loss_name: str, estimator_name: str, models: Models) -> None:
    for estimator in estimators(estimator_name):
        loss = fitting(loss_name, estimator)
        if loss is None:
            continue
        found = ways(models, loss, estimator)
        value, gradient = found.pop("whole")
        largest = max(float(g.abs().max()) for g in gradient)
        assert largest > 1e-4
        for way, (other, theirs) in found.items():
            assert other == pytest.approx(value, rel=1e-4, abs=1e-5), way
            for a, b in zip(gradient, theirs, strict=True):
                torch.testing.assert_close(b, a, rtol=1e-3, atol=2e-4 * largest, msg=way)

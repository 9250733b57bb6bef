"""The update loop against the definition, on a real tiny model, however the work is divided."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.estimators import GRPO, LambdaGRPO
from lgrpo_lightning.losses import ClippedSurrogate
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.training import Objective, Updates
from lgrpo_lightning.training.batch_scorer import BatchScorer, compute_fixed_scores
from lgrpo_lightning.training.token_loss import EntropyBonus
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import Rewards, TrainBatch
from tests.reference import naive
from tests.updates import run_update

GROUPS = [
    ([[5, 6, 7, 1], [5, 6, 8, 9, 1], [5, 6, 7, 1], [10, 1]], [1.0, 0.0, 0.5, 0.25]),
    ([[11, 12], [11, 13, 14, 15, 16, 1], [17], [11, 12, 13]], [0.0, 0.0, 1.0, 2.0]),
]
MAX_LENGTH = 8


def batch(estimator: GRPO) -> TrainBatch:
    groups = [toy_group(sequences, uid=str(n), prompt="!") for n, (sequences, _) in enumerate(GROUPS)]
    assert all(g.prompt.token_ids == (33,) for g in groups)
    trees = [ProcessTree.from_sequences(sequences) for sequences, _ in GROUPS]
    rewards = [Rewards(outcome=torch.tensor(r)) for _, r in GROUPS]
    return TrainBatch.from_groups(groups, estimator.estimate_batch(rewards, trees, reduce=lambda x: x))


def gradients(policy: Policy) -> list[torch.Tensor]:
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def run(
    policy: Policy,
    data: TrainBatch,
    *,
    loss: PolicyLoss | None = None,
    objective: Objective | None = None,
    updates: Updates | None = None,
    step: Any = None,
    **more: Any,
) -> Means:
    policy.zero_grad()
    means = Means()
    run_update(
        Update(
            policy=policy,
            reference=more.get("reference"),
            loss=loss or ClippedSurrogate(),
            objective=objective or Objective(),
            bonus=EntropyBonus(objective or Objective()),
            updates=updates or Updates(),
            temperature=0.8,
            max_length=MAX_LENGTH,
            ranks=Ranks(),
            backward=lambda value, last: value.backward(),  # type: ignore[no-untyped-call]
        ),
        data,
        more.get("mini_batches", [range(len(data))]),
        means,
        step or (lambda: None),
    )
    return means


def policy_of(folder: Path, **options: Any) -> Policy:
    return Policy(PolicyConfig(path=str(folder), **options))


def logprobs(policy: Policy, data: TrainBatch) -> list[list[float]]:
    with torch.no_grad():
        scores = policy(data.prompts, data.completions, temperature=0.8).logprobs
    return [row[:n].tolist() for row, n in zip(scores, data.lengths, strict=True)]


@pytest.mark.parametrize("estimator", [GRPO(), LambdaGRPO()])
@pytest.mark.parametrize("by", ["token", "sequence", "constant"])
def test_the_loss_is_that_of_the_definition(estimator: GRPO, by: Any, model_folder: Callable[..., Path]) -> None:
    """With a reference and clipping; both groups together under one normaliser."""
    policy = policy_of(model_folder("llama"))
    reference = policy.copy_frozen()
    data = batch(estimator)
    before = logprobs(policy, data)
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(1.05)
    data = TrainBatch(**{**vars(data), "sampler_logprobs": pad(before)})
    means = run(
        policy,
        data,
        loss=ClippedSurrogate(normalizer=by, clip_high=0.3),
        objective=Objective(kl_coef=0.1),
        updates=Updates(old_logprobs="sampler"),
        reference=reference,
    )
    now = logprobs(policy, data)
    expected, rows = 0.0, 0
    total_tokens, total_rows = sum(data.lengths), len(data)
    for sequences, rewards in GROUPS:
        here = slice(rows, rows + len(sequences))
        rows += len(sequences)
        a = naive.advantages(rewards)
        value = naive.loss(
            sequences,
            now[here],
            before[here],
            before[here],
            [[x] * len(y) for x, y in zip(a, sequences, strict=True)],
            by=by,
            weighted=isinstance(estimator, LambdaGRPO),
            length=MAX_LENGTH,
            low=0.2,
            high=0.3,
            beta=0.1,
        )
        share = sum(map(len, sequences)) / total_tokens if by == "token" else len(sequences) / total_rows
        expected += value * share
    assert math.isclose(means.values()["loss"], expected, rel_tol=1e-5, abs_tol=1e-6)
    assert means.values()["clip_ratio/region_mean"] > 0
    assert means.values()["kl"] > 0


def pad(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)


@pytest.mark.parametrize("by", ["token", "sequence", "constant"])
@pytest.mark.parametrize("budget", [1, 20, 40])
def test_micro_batches_change_no_gradient(by: Any, budget: int, model_folder: Callable[..., Path]) -> None:
    whole = policy_of(model_folder("llama"))
    divided = policy_of(model_folder("llama"), micro_batch_tokens=budget)
    data = batch(LambdaGRPO())
    losses = [run(p, data, loss=ClippedSurrogate(normalizer=by)).values()["loss"] for p in (whole, divided)]
    assert math.isclose(*losses, rel_tol=1e-5, abs_tol=1e-7)
    for a, b in zip(gradients(whole), gradients(divided), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def test_on_policy_lambda_grpo_counts_every_node_once(model_folder: Callable[..., Path]) -> None:
    """The gradient of λ-GRPO is that of each trie node once, with the mean advantage of its members."""
    policy = policy_of(model_folder("llama"))
    data = batch(LambdaGRPO())
    run(policy, data)
    found = gradients(policy)
    policy.zero_grad()
    scores = policy(data.prompts, data.completions, temperature=0.8).logprobs
    total, row = torch.tensor(0.0), 0
    for sequences, rewards in GROUPS:
        a = naive.advantages(rewards)
        nodes: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for i, y in enumerate(sequences):
            for t in range(len(y)):
                nodes.setdefault(tuple(y[: t + 1]), []).append((i, t))
        for members in nodes.values():
            i, t = members[0]
            worth = sum(a[j] for j, _ in members) / len(members)
            total = total - worth * (scores[row + i, t] - scores[row + i, t].detach()).exp()
        row += len(sequences)
    (total / sum(data.lengths)).backward()  # type: ignore[no-untyped-call]
    for x, y in zip(found, gradients(policy), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5 * float(x.abs().max()))


def test_iterations_and_mini_batches_count_optimizer_steps(model_folder: Callable[..., Path]) -> None:
    policy = policy_of(model_folder("llama"))
    steps: list[int] = []
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()
        steps.append(1)

    means = run(
        policy,
        batch(LambdaGRPO()),
        loss=ClippedSurrogate(),
        objective=Objective(),
        bonus=EntropyBonus(Objective()),
        updates=Updates(iterations=3, mini_batches=2),
        step=step,
        mini_batches=[range(4), range(4, 8)],
    )
    assert len(steps) == 6
    assert means.values()["clip_ratio/region_mean"] > 0


def test_later_mini_batches_are_compared_with_the_policy_before_the_first(
    model_folder: Callable[..., Path],
) -> None:
    policy = policy_of(model_folder("llama"))
    data = batch(LambdaGRPO())
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    parts = [range(4), range(4, 8)]
    means = run(policy, data, updates=Updates(mini_batches=2), step=optimizer.step, mini_batches=parts)
    assert means.values()["clip_ratio/region_mean"] > 0


def test_old_logprobs_are_kept_where_more_than_one_step_is_made(model_folder: Callable[..., Path]) -> None:
    policy = policy_of(model_folder("llama"))
    data = batch(LambdaGRPO())
    scorer = BatchScorer(policy=policy, ranks=Ranks(), temperature=0.8)

    def old(**options: Any) -> torch.Tensor | None:
        updates = Updates(**options)
        return compute_fixed_scores(data, scorer, reference=None, objective=Objective(), updates=updates).old

    assert old() is None
    for options in ({"mini_batches": 2}, {"iterations": 2}):
        torch.testing.assert_close(old(**options), pad(logprobs(policy, data)))
    assert old(mini_batches=2, old_logprobs="sampler") is data.sampler_logprobs


def test_nothing_trained_makes_no_step(model_folder: Callable[..., Path]) -> None:
    policy = policy_of(model_folder("llama"))
    steps: list[int] = []
    means = run(policy, batch(LambdaGRPO()), step=lambda: steps.append(1), mini_batches=[[]])
    assert steps == []
    assert means.values()["updates/skipped"] == 1


def test_untrained_tokens_have_no_gradient(model_folder: Callable[..., Path]) -> None:
    """Tokens of a tool's output are read by the model, and neither trained nor counted."""
    policy = policy_of(model_folder("llama"))
    data = batch(LambdaGRPO())
    mask = data.mask.clone()
    mask[1, 1:] = False
    masked = TrainBatch(**{**vars(data), "mask": mask})
    a = run(policy, masked).values()["loss"]
    changed = data.advantages.clone()
    changed[1, 1:] = 100.0
    b = run(policy, TrainBatch(**{**vars(masked), "advantages": changed})).values()["loss"]
    assert a == b


def test_ranks_share_what_they_know_of_layouts() -> None:
    """A teacher may have checked a layout on one rank, or given it up."""
    policy = SimpleNamespace(failed={}, verified={"padded", "tree"}, device="cpu")
    elsewhere = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    ranks = Ranks(world_size=2, max=lambda own: torch.maximum(own, elsewhere))
    Update._share_checks(SimpleNamespace(policy=policy, ranks=ranks))  # type: ignore[arg-type]
    assert policy.verified == {"padded"}
    assert policy.failed == {"prefix": "the prefix layout failed its check on another process"}

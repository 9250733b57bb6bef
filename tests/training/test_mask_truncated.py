"""Completions that were cut off leave the loss, and nothing else."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.estimators import GRPO, ImplicitPRM, LambdaGRPO
from lgrpo_lightning.losses import ClippedSurrogate
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.types import Rewards, TrainBatch
from tests.runs import fit, rollouts, train_metrics
from tests.training.test_update import gradients, policy_of, run

SEQUENCES = [[5, 6, 7, 1], [5, 6, 8, 9], [5, 6, 7, 1], [10, 1]]
CUT_OFF = 1


def batch(*, mask_truncated: bool) -> TrainBatch:
    group = toy_group(SEQUENCES, prompt="!")
    ended = [replace(r, finish_reason="stop") for r in group.completions]
    ended[CUT_OFF] = group.completions[CUT_OFF]
    tree = ProcessTree.from_sequences(SEQUENCES)
    credit = GRPO().estimate(Rewards(outcome=torch.tensor([1.0, 0.0, 0.5, 0.25])), tree)
    return TrainBatch.from_groups([replace(group, completions=tuple(ended))], [credit], mask_truncated=mask_truncated)


def test_advantages_are_those_of_the_whole_group() -> None:
    kept, masked = (batch(mask_truncated=m) for m in (False, True))
    assert torch.equal(kept.advantages, masked.advantages)
    assert masked.mask.any(-1).tolist() == [True, False, True, True]
    assert kept.mask.sum() - masked.mask.sum() == 4


def test_the_update_is_that_without_the_row(model_folder: Callable[..., Path]) -> None:
    """Token normaliser: the same as leaving the row out altogether. The share of tokens: 4 of 14."""
    policy, other = (policy_of(model_folder("llama")) for _ in range(2))
    masked = run(policy, batch(mask_truncated=True)).values()
    left_out = run(other, batch(mask_truncated=False), mini_batches=[[0, 2, 3]]).values()
    assert math.isclose(masked["loss"], left_out["loss"], rel_tol=1e-6)
    assert masked["updates/masked_tokens"] == 4 / 14
    assert left_out["updates/masked_tokens"] == 0
    for a, b in zip(gradients(policy), gradients(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by", ["token", "sequence", "constant"])
def test_a_step_of_nothing_but_cut_off_completions_is_skipped(by: str, model_folder: Callable[..., Path]) -> None:
    steps: list[int] = []
    means = run(
        policy_of(model_folder("llama")),
        batch(mask_truncated=True),
        loss=ClippedSurrogate(normalizer=by),  # type: ignore[arg-type]
        mini_batches=[[CUT_OFF], [0]],
        step=lambda: steps.append(1),
    )
    assert means.values()["updates/skipped"] == 0.5
    assert len(steps) == 1


def test_the_theorem_holds_without_what_was_cut_off(model_folder: Callable[..., Path]) -> None:
    """ImplicitPRM is GRPO, in value and gradient, with λ weights and without: sets are of those that are trained."""
    group = toy_group(SEQUENCES, prompt="!")
    ended = [replace(r, finish_reason="stop") for r in group.completions]
    ended[CUT_OFF] = group.completions[CUT_OFF]
    group = replace(group, completions=tuple(ended))
    tree = ProcessTree.from_sequences(SEQUENCES).masked(group.masked(mask_truncated=True).mask)
    rewards = Rewards(outcome=torch.tensor([1.0, 0.0, 0.5, 0.25]))
    policy = policy_of(model_folder("llama"))
    for one, other in ((GRPO(), ImplicitPRM()), (LambdaGRPO(), ImplicitPRM(lambda_power=1))):
        found = []
        for estimator in (one, other):
            data = TrainBatch.from_groups([group], [estimator.estimate(rewards, tree)], mask_truncated=True)
            found.append((run(policy, data).values()["loss"], gradients(policy)))
        assert math.isclose(found[0][0], found[1][0], rel_tol=1e-5, abs_tol=1e-6)
        for a, b in zip(found[0][1], found[1][1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_run_says_what_was_trained(tmp_path: Path) -> None:
    root = fit(tmp_path, model__updates__mask_truncated="true", model__sampling__max_new_tokens=26)
    table = rollouts(root)
    assert set(table["finish_reason"]) == {"stop", "length"}
    assert (table["trained"] == (table["finish_reason"] == "stop")).all()
    tokens = table.groupby("rollout")["length"].sum()
    cut = table[~table["trained"]].groupby("rollout")["length"].sum()
    for rollout, share in enumerate(train_metrics(root)["updates/masked_tokens"]):
        assert share == pytest.approx(cut.get(rollout, 0) / tokens[rollout])

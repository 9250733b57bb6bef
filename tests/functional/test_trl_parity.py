"""Loss and gradient against the GRPOTrainer of TRL itself, on the same log-probs."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from lgrpo_lightning.functional import aggregate, clipped_surrogate, group_advantages, k3_kl

trl = pytest.importorskip("trl.trainer.grpo_trainer")

BY = {"grpo": "sequence", "dapo": "token", "dr_grpo": "constant"}
GROUPS, SIZE, LENGTH, LONGEST = 3, 4, 7, 11


def trainer(loss_type, beta, logprobs):
    """What GRPOTrainer._compute_loss reads of a trainer, with a model that gives these log-probs."""
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (
            logprobs,
            torch.zeros_like(logprobs),
            None,
        ),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        _entropy_bonus_enabled=False,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        loss_type=loss_type,
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=0.28,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    rows = GROUPS * SIZE
    lengths = torch.randint(1, LENGTH + 1, (rows,), generator=generator)
    lengths[0] = LENGTH
    logprobs = -3 * torch.rand(rows, LENGTH, generator=generator)
    return SimpleNamespace(
        mask=torch.arange(LENGTH) < lengths[:, None],
        rewards=torch.rand(GROUPS, SIZE, generator=generator),
        logprobs=logprobs.requires_grad_(),
        old=logprobs.detach() + torch.randn(rows, LENGTH, generator=generator) * 0.4,
        ref=logprobs.detach() + torch.randn(rows, LENGTH, generator=generator) * 0.4,
    )


def trl_loss(batch, advantages, loss_type, beta, off_policy):
    inputs = {
        "prompt_ids": torch.ones(GROUPS * SIZE, 2, dtype=torch.long),
        "prompt_mask": torch.ones(GROUPS * SIZE, 2, dtype=torch.long),
        "completion_ids": torch.ones(GROUPS * SIZE, LENGTH, dtype=torch.long),
        "completion_mask": batch.mask.long(),
        "advantages": advantages,
        "num_items_in_batch": batch.mask.sum(),
        "ref_per_token_logps": batch.ref,
    }
    if off_policy:
        inputs["old_per_token_logps"] = batch.old
    stub = trainer(loss_type, beta, batch.logprobs)
    loss = trl.GRPOTrainer._compute_loss(stub, stub.model, inputs)
    return loss, stub._metrics["train"]["clip_ratio/region_mean"][0]


@pytest.mark.parametrize("loss_type", BY)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("off_policy", [False, True], ids=["first update", "clipped"])
def test_loss_and_gradient(batch, loss_type, beta, off_policy):
    advantages = group_advantages(batch.rewards).flatten()
    theirs, clipped = trl_loss(batch, advantages, loss_type, beta, off_policy)
    assert (clipped > 0.1) == off_policy
    old = batch.old if off_policy else batch.logprobs.detach()
    per_token = clipped_surrogate(batch.logprobs, old, advantages[:, None], clip_low=0.2, clip_high=0.28)
    if beta:
        per_token = per_token + beta * k3_kl(batch.logprobs, batch.ref)
    ours = aggregate(per_token, batch.mask, by=BY[loss_type], length=LONGEST)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-6)
    gradients = [torch.autograd.grad(loss, batch.logprobs)[0] for loss in (ours, theirs)]
    assert gradients[1].abs().max() > 1e-3
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_group_advantages(batch):
    rewards = batch.rewards.clone()
    rewards[1, 2] = torch.nan
    deviation = trl.nanstd(rewards, dim=1)[:, None]
    theirs = torch.nan_to_num((rewards - rewards.nanmean(1, keepdim=True)) / (deviation + 1e-4))
    assert torch.allclose(group_advantages(rewards), theirs, atol=1e-5)

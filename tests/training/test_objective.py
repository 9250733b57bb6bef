"""What stands beside the policy loss, by hand: reference, reward, entropy, masks; and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning import GRPOModule, Sampling
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.estimators import GDPO, GRPO, LambdaGRPO, MaxRL, PassAtK, ProcessGRPO
from lgrpo_lightning.losses import CISPO, GMPO, GSPO, LUSPO, VESPO, ClippedSurrogate, Reinforce
from lgrpo_lightning.policy import Policy, PolicyConfig, make_reference
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.policy.reference import (
    ReferenceSync,
    gather_reference_state,
    load_reference_state,
    require_weights,
)
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.rollouts.refill import ScoredGroups
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.training import Objective
from lgrpo_lightning.training.batch_scorer import BatchScorer, subtract_kl_penalty
from lgrpo_lightning.training.compatibility import check_correction
from lgrpo_lightning.training.token_loss import EntropyBonus, select_high_entropy
from lgrpo_lightning.types import Rewards
from tests.losses.stub_policy import drawn, updated
from tests.training.several_ranks import together

# ------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kl_coef": -1}, "objective.kl_coef is -1; it must be at least 0"),
        ({"kl_coef": math.nan}, "objective.kl_coef is nan"),
        ({"kl_estimator": "k4"}, "objective.kl_estimator is 'k4'; it must be 'k1', 'k2' or 'k3'"),
        ({"kl_place": "prompt"}, "objective.kl_place is 'prompt'"),
        ({"kl_coef": 0.1, "reference_sync_steps": 0}, "objective.reference_sync_steps is 0"),
        ({"reference_sync_mix": 0.0}, "objective.reference_sync_mix is 0.0; it must be above 0"),
        ({"reference_sync_mix": 1.1}, "at most 1"),
        ({"entropy_coef": -0.1}, "objective.entropy_coef is -0.1"),
        ({"entropy_target": 0.0}, "objective.entropy_target is 0.0; it must be above 0, or null"),
        ({"entropy_coef_delta": 0.0}, "objective.entropy_coef_delta"),
        ({"entropy_coef": 2.0}, "objective.entropy_coef_max is 1.0; it must be at least entropy_coef"),
        ({"top_entropy": 0.0}, "objective.top_entropy is 0.0"),
        ({"top_entropy": 1.5}, "at most 1"),
        ({"off_policy_kl": -1.0}, "objective.off_policy_kl"),
        ({"router_aux_coef": -1.0}, "objective.router_aux_coef"),
        ({"kl_place": "reward", "kl_estimator": "k1"}, "set objective.kl_coef above 0"),
        ({"kl_unbiased": True}, "set objective.kl_coef above 0"),
        ({"kl_coef": 0.1, "kl_place": "reward"}, "set objective.kl_estimator: k1"),
        ({"kl_coef": 0.1, "kl_place": "reward", "kl_estimator": "k1", "kl_unbiased": True}, "kl_unbiased: false"),
        ({"importance": "sequence"}, "The importance mode is 'sequence'"),
        ({"importance_max": 1.0, "importance_min": 2.0}, "the minimum must be the smaller one"),
    ],
)  # fmt: skip
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        Objective(**options)


@pytest.mark.parametrize(
    ("loss", "estimator", "refused"),
    [
        (GSPO(), LambdaGRPO(), True),
        (GSPO(token=True), LambdaGRPO(), False),
        (GSPO(), LambdaGRPO(power=0), False),
        (GSPO(), GRPO(), False),
        (GMPO(), ProcessGRPO(lambda_power=0.5), True),
        (LUSPO(), LambdaGRPO(), True),
        (VESPO(), LambdaGRPO(), False),
        (CISPO(), LambdaGRPO(), False),
    ],
    ids=lambda part: type(part).__name__,
)
def test_weights_of_tokens_need_losses_of_tokens(loss: Any, estimator: Any, refused: bool) -> None:
    def make() -> GRPOModule:
        return GRPOModule(reward_model=ExactMatch(), loss=loss, advantage_estimator=estimator)

    if not refused:
        make()
        return
    with pytest.raises(ValueError, match="such a loss has no tokens to weigh") as said:
        make()
    assert ("init_args.token: true" in str(said.value)) == hasattr(loss, "token")


def test_vespo_takes_corrections_of_tokens() -> None:
    sampler: Any = SimpleNamespace(is_policy=False)
    with pytest.raises(ValueError, match="token_mask, or none"):
        check_correction(VESPO(), Objective(), sampler, Sampling())
    check_correction(VESPO(), Objective(importance="token_truncate"), sampler, Sampling())
    check_correction(VESPO(), Objective(), SimpleNamespace(is_policy=True), Sampling())  # type: ignore[arg-type]
    check_correction(VESPO(), Objective(), sampler, Sampling(top_p=0.9))  # nothing is corrected then
    check_correction(GSPO(), Objective(), sampler, Sampling())
    GRPOModule(reward_model=ExactMatch(), loss=VESPO())


# ------------------------------------------------------------------------------------------ the reference


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_a_reference_is_only_loaded_for_a_penalty(coefficient: float, model_folder: Callable[..., Path]) -> None:
    module = GRPOModule(
        policy=PolicyConfig(path=str(model_folder("llama"))),
        reward_model=ExactMatch(),
        objective=Objective(kl_coef=coefficient),
    )
    module.configure_model()
    assert (module.reference is not None) == (coefficient > 0)


def test_a_reference_follows(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama_tied"))))
    reference = policy.copy_frozen()
    start = [p.clone() for p in reference.parameters()]
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1.0)
    sync = ReferenceSync(steps=3, mix=0.25)
    assert [step for step in range(10) if sync.is_due(step)] == [3, 6, 9]
    sync.update(reference, policy)
    for old, new in zip(start, reference.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
        assert not new.requires_grad
    sync.update(reference, policy)  # of what is lacking, a quarter again
    for old, new in zip(start, reference.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25 + 0.25 * 0.75)
    ReferenceSync(steps=1, mix=1.0).update(reference, policy)
    for theirs, new in zip(policy.parameters(), reference.parameters(), strict=True):
        assert torch.equal(new, theirs)
    fresh = policy.copy_frozen()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1.0)
    kept = gather_reference_state(fresh)
    load_reference_state(reference, kept)
    assert all(torch.equal(p, kept[n]) for n, p in reference.named_parameters())


def test_adapters_have_no_reference_that_follows(model_folder: Callable[..., Path]) -> None:
    pytest.importorskip("peft")
    policy = Policy(PolicyConfig(path=str(model_folder("llama")), lora=Lora(rank=2)))
    for reference in (make_reference(policy), policy.copy_frozen()):
        with pytest.raises(ValueError, match="a LoRA run trains an adapter"):
            require_weights(reference)


# ------------------------------------------------------------------------------------------ KL in the reward


@pytest.mark.parametrize("budget", [16384, 20])
@pytest.mark.parametrize("layout", ["padded", "tree"])
def test_kl_in_the_reward(budget: int, layout: Any, model_folder: Callable[..., Path]) -> None:
    """r - β Σ_t log π/π_ref, from the model's own scores of one completion at a time."""
    path = str(model_folder("llama"))
    policy = Policy(PolicyConfig(path=path, micro_batch_tokens=budget, layout=layout))
    reference = policy.copy_frozen()
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(1.1)
    groups = [
        toy_group([[5, 6, 7, 1], [5, 6, 8], [9]], uid="0", prompt="!"),
        toy_group([[5, 6], [10, 11, 12]], prompt="!!"),
    ]
    masked = groups[0].completions[1]
    masked = replace(masked, mask=torch.tensor([True, False, True]))
    groups[0] = replace(groups[0], completions=(groups[0].completions[0], masked, groups[0].completions[2]))
    outcomes = [torch.tensor([1.0, 0.5, math.nan]), torch.tensor([0.0, 2.0])]
    rewards = [Rewards(outcome=o, parts={"x": o}) for o in outcomes]
    scorer = BatchScorer(policy=policy, ranks=Ranks(), temperature=0.7)
    scored = ScoredGroups(groups=tuple(groups), rewards=tuple(rewards))
    found = subtract_kl_penalty(scored, reference, scorer, 0.3)
    for group, given, got in zip(groups, outcomes, found, strict=True):
        total, expected = 0.0, []
        for rollout, reward in zip(group.completions, given.tolist(), strict=True):
            scores = []
            for who in (policy, reference):
                with torch.no_grad():
                    both = who([group.prompt.token_ids], [rollout.token_ids], temperature=0.7, layout="padded")
                scores.append(both.logprobs[0].tolist())
            kl = sum(a - b for a, b, m in zip(*scores, rollout.mask.tolist(), strict=True) if m)
            expected.append(reward - 0.3 * kl)
            total += kl
        torch.testing.assert_close(got.outcome, torch.tensor(expected), rtol=1e-4, atol=1e-4, equal_nan=True)
        tokens = sum(int(r.mask.sum()) for r in group.completions)
        assert got.metrics["kl"] == pytest.approx(total / tokens, rel=1e-3, abs=1e-5)
        torch.testing.assert_close(got.parts["x"], given, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------ entropy


def test_undecided_tokens_of_several_ranks_and_micro_batches() -> None:
    """The share is one of the whole optimizer step: most of it are tokens of the first rank."""
    case = drawn("holes", seed=2)
    with torch.no_grad():
        case.entropies[1::2].mul_(0.3)
    objective = Objective(top_entropy=0.33, entropy_coef=0.1)
    whole = updated(case, ClippedSurrogate(), objective, per_pass=100)
    kept = whole[1] != 0
    flat = case.entropies.detach()[case.mask]
    assert 0 < int(kept.sum()) <= math.ceil(0.33 * len(flat))
    assert float(case.entropies.detach()[kept].min()) >= sorted(flat.tolist())[-math.ceil(0.33 * len(flat))]
    one_row = updated(case, ClippedSurrogate(), objective, per_pass=1)
    cases = [drawn("holes", seed=2) for _ in range(2)]
    for c in cases:
        c.entropies = case.entropies.detach().clone().requires_grad_()

    def on(rank: int, ranks: Ranks) -> Any:
        rows = list(range(rank, 12, 2))
        return updated(cases[rank], ClippedSurrogate(), objective, ranks=ranks, rows=rows)

    parts = together(2, on)
    summed = [(a + b) / 2 for a, b in zip(parts[0][1:], parts[1][1:], strict=True)]
    for other in (one_row[1:], summed):
        for a, b in zip(whole[1:], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert one_row[0]["entropy_coef"] == 0.1


def test_undecided_by_hand() -> None:
    h = torch.tensor([[0.1, 0.5, 9.0], [0.3, 0.7, 0.9]])
    part = torch.tensor([[True, True, False], [True, True, True]])
    # of 0.1 0.3 0.5 0.7 0.9 the upper 0.4 begin at 0.1 + 0.6 · 4 places: 0.58
    assert select_high_entropy(h, part, 0.4, Ranks()).logical_and(part).tolist() == [
        [False] * 3,
        [False, True, True],
    ]
    assert select_high_entropy(h, part, 1.0, Ranks()).logical_and(part).equal(part)
    assert not select_high_entropy(h, torch.zeros_like(part), 0.5, Ranks()).any()
    ranks = Ranks(world_size=1, gather=lambda x: [x, x])  # two ranks of one tensor group
    assert select_high_entropy(h, part, 0.4, ranks).equal(select_high_entropy(h, part, 0.4, Ranks()))


def test_the_bonus_is_the_mean_entropy_whatever_the_normaliser() -> None:
    case = drawn("holes")
    tokens = int(case.mask.sum())
    for normalizer in ("token", "sequence", "constant", "completion"):
        loss = Reinforce(normalizer=normalizer)  # type: ignore[arg-type]
        metrics, _, gradient = updated(case, loss, Objective(entropy_coef=0.4))
        expected = torch.where(case.mask, -0.4 / tokens, 0.0)
        torch.testing.assert_close(gradient, expected)
        plain = updated(case, loss)[0]["loss"]
        assert metrics["loss"] == pytest.approx(plain - 0.4 * metrics["entropy"], rel=1e-5)


def test_a_bonus_goes_on_where_it_was() -> None:
    objective = Objective(entropy_coef=0.1, entropy_target=1.0, entropy_coef_delta=0.05, entropy_coef_max=0.2)
    one, other = EntropyBonus(objective), EntropyBonus(objective)
    seen = [0.5, 1.5, 0.9, 0.9, 0.9, 1.1, 1.2, 1.3, 1.4, 0.2]
    weights = []
    for number, entropy in enumerate(seen):
        one.saw(entropy)
        if number == 4:
            other.load_state_dict(one.state_dict())
        elif number > 4:
            other.saw(entropy)
            assert other.coefficient == one.coefficient
        weights.append(round(one.coefficient, 4))
    assert weights == [0.15, 0.0, 0.15, 0.2, 0.2, 0.0, 0.0, 0.0, 0.0, 0.05]
    still = EntropyBonus(Objective(entropy_coef=0.3))
    still.saw(99.0)
    assert still.coefficient == 0.3


# ------------------------------------------------------------------------------------------ far completions


def test_completions_far_off_the_policy_leave_by_hand() -> None:
    case = drawn("ragged")
    drift = torch.where(case.mask, case.sampler - case.logprobs.detach(), 0.0).sum(1) / case.mask.sum(1)
    left = (case.advantages < 0) & (drift > 0.1)
    assert 0 < int(left.sum()) < int((case.advantages < 0).sum())
    metrics, gradient, _ = updated(case, Reinforce(), Objective(off_policy_kl=0.1))
    assert ((gradient == 0).all(1) == (left | (case.advantages == 0))).all()
    share = float((case.mask & left[:, None]).sum() / case.mask.sum())
    assert metrics["updates/off_policy_masked"] == pytest.approx(share)


def test_a_sampler_that_truncates_says_nothing_of_how_far() -> None:
    """Its log-probs are renormalised, and above the policy's for every token; π_old is compared instead."""
    case = drawn("ragged")
    case.sampler = case.old + 5.0
    masked = updated(case, Reinforce(), Objective(off_policy_kl=0.1), importance=None)
    case.sampler = case.old
    plain = updated(case, Reinforce(), Objective(off_policy_kl=0.1), importance="none")
    torch.testing.assert_close(masked[1], plain[1])


@pytest.mark.parametrize(
    ("estimator", "refused"),
    [
        (GRPO(), False),
        (LambdaGRPO(), False),
        (ProcessGRPO(), True),
        (PassAtK(), True),
        (MaxRL(), True),
        (GDPO(), True),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_penalty_in_the_reward_needs_somebody_who_looks_at_it(estimator: Any, refused: bool) -> None:
    options: dict[str, Any] = {
        "reward_model": ExactMatch(),
        "advantage_estimator": estimator,
        "objective": Objective(kl_coef=0.1, kl_place="reward", kl_estimator="k1"),
    }
    if refused:
        with pytest.raises(ValueError, match="a penalty is lost on it"):
            GRPOModule(**options)
    else:
        GRPOModule(**options)

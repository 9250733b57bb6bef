"""Hybrid, recurrent and otherwise unusual families: sampled, scored and the model's own log-probs are the same."""

from collections.abc import Sequence

import pytest
import torch

from lgrpo_lightning.policy import Policy
from lgrpo_lightning.types import padded
from tests.families import FAMILIES, drawn, family_policy

REFUSED = {"rwkv", "recurrent_gemma"}


def own(policy: Policy, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """Log-probs from the model's own logits, one row without padding."""
    with torch.no_grad():
        logits = policy.model.eval()(torch.tensor([[*prompt, *completion]])).logits[0].float()
    at = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return at.gather(1, torch.tensor([completion]).T).squeeze(1)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REFUSED))
def test_sampled_scored_and_own(family: str) -> None:
    policy = family_policy(family)
    prompts, found = drawn(policy)
    completions = [d.token_ids for d in found]
    assert len({len(c) for c in completions}) > 1
    sampled = padded([d.logprobs for d in found], max(map(len, completions)))
    expected = padded(
        [own(policy, p, c) for p, c in zip(prompts, completions, strict=True)], sampled.shape[1]
    )
    torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=0)
    policy.choose_layout(prompts, completions)
    if family == "nemotron":  # says that it takes trees, and does not
        policy.verify(prompts[:3], completions[:3])
        assert policy.no_tree
        policy.choose_layout(prompts, completions)
    torch.testing.assert_close(policy(prompts, completions).logprobs, expected, atol=1e-4, rtol=0)
    policy(prompts, completions).logprobs.sum().backward()
    assert any(bool(p.grad.abs().sum() > 0) for p in policy.parameters() if p.grad is not None)


def test_verify_refuses_what_was_sampled_from_another_distribution() -> None:
    policy = family_policy("recurrent_gemma")
    prompts, found = drawn(policy)
    completions = [d.token_ids for d in found][:3]
    sampled = padded([d.logprobs for d in found[:3]], max(map(len, completions)))
    with pytest.raises(RuntimeError, match="log-probs of sampling differ"):
        policy.verify(prompts[:3], completions, sampled=sampled)


def test_a_model_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="RwkvForCausalLM keeps what it has read in no cache"):
        drawn(family_policy("rwkv"))


def test_trees_that_are_asked_for_are_not_given_up() -> None:
    policy = family_policy("nemotron", layout="tree")
    prompts, found = drawn(policy)
    completions = [d.token_ids for d in found]
    policy.choose_layout(prompts, completions)
    with pytest.raises(RuntimeError, match=r"Set model\.policy\.layout: padded"):
        policy.verify(prompts[:3], completions[:3])

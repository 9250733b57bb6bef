"""A student comes to its teacher: on the CPU, in a few steps."""

from collections.abc import Callable
from pathlib import Path

import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.estimators import Distillation
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.policy.loading import load_tokenizer
from lgrpo_lightning.rewards import TeacherLogprobs
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.testing import toy_tree
from lgrpo_lightning.types import Prompt, TrainBatch
from tests.training.test_update import run

PROMPTS = [Prompt(uid=str(n), text="", token_ids=(3 + n, 13, 4)) for n in range(4)]
STEPS = 25


@torch.no_grad()
def divergence(student: Policy, teacher: Policy) -> float:
    """KL(student ‖ teacher) of the next token, exact over the vocabulary, mean over fixed contexts."""
    contexts = torch.tensor([[3 + n, 13, 4, 5 + n] for n in range(8)])
    p, q = (m.model.eval()(input_ids=contexts).logits.float().log_softmax(-1) for m in (student, teacher))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_the_reverse_kl_falls(model_folder: Callable[..., Path]) -> None:
    """A llama learns from a qwen2 with other weights; at temperature 0.8, as ``run`` scores."""
    config = PolicyConfig(path=str(model_folder("llama")))
    policy, teacher = Policy(config), Policy(PolicyConfig(path=str(model_folder("qwen2"))))
    before = divergence(policy, teacher)
    reward = TeacherLogprobs(str(model_folder("qwen2")), temperature=0.8)
    sampler, optimizer = TransformersSampler(), torch.optim.AdamW(policy.parameters(), lr=3e-3)
    sampler.setup(PolicySource(policy, tokenizer=load_tokenizer(config), eos_token_ids=(1,), version=lambda: 0))
    told = []
    for step in range(STEPS):
        sampling = Sampling(temperature=0.8, max_new_tokens=6)
        groups = sampler.sample(PROMPTS, 16, sampling=sampling, random_key=RandomKey(0, "train", step))
        trees = [toy_tree(group) for group in groups]
        rewards = reward.score_batch(groups, trees)
        credits = Distillation().estimate_batch(rewards, trees, reduce=lambda x: x)
        run(policy, TrainBatch.from_groups(groups, credits), step=optimizer.step)
        told.append(sum(r.metrics["rewards/TeacherLogprobs/reverse_kl"] for r in rewards) / len(rewards))
    after = divergence(policy, teacher)
    assert after < 0.6 * before
    assert sum(told[-5:]) < sum(told[:5]) / 2
